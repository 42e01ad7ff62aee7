"""What a user believes a run folder to hold: another is refused, not taken in silence."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from planner.errors import UsageError
from planner.model_files import resolve_model
from planner.run import Run, read_run
from planner.site import Site, load_site, with_absolute_paths

_Answer = tuple[str, object, object]  # variable of make, what was planned, what is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is given beside a run folder that is there already; None or empty: anything."""

    model_path: str = ""
    dataset: str = ""
    model: str = ""
    gpus: int | None = None
    nodes: int | None = None
    load: str = ""
    site: Path | None = None


def read_expected_run(run_folder: Path, expected: Expected) -> Run:
    """The run of a folder, if it was planned with what is given.

    Relative paths count from here. Raises UsageError: those of `read_run`, `resolve_model` and
    `load_site`, run.planned_with, run.other_site.
    """
    run = read_run(run_folder)
    for variable, planned, given in _different(run, expected):
        raise UsageError(
            "run.planned_with", path=run_folder, variable=variable, planned=planned, given=given
        )
    if expected.site is not None and not _is_of_site(run, expected):
        raise UsageError("run.other_site", path=run_folder, site=expected.site)
    return run


def _different(run: Run, expected: Expected) -> Iterator[_Answer]:
    given = Site(
        model_path=expected.model_path, dataset=(expected.dataset,) if expected.dataset else ()
    )
    absolute = with_absolute_paths(given)
    if given.model_path and run.site.model_path not in (given.model_path, absolute.model_path):
        yield "MODEL_PATH", run.site.model_path, absolute.model_path
    if given.dataset and run.site.dataset not in (given.dataset, absolute.dataset):
        yield "DATASET", " ".join(run.site.dataset), absolute.dataset[0]
    machines = run.machines
    gpus = machines.num_nodes * machines.gpus_per_node
    if expected.gpus not in (None, gpus):
        yield "GPUS", gpus, expected.gpus
    if expected.nodes not in (None, machines.num_nodes):
        yield "NNODES", machines.num_nodes, expected.nodes
    if expected.load not in ("", run.load):
        yield "LOAD", run.load, expected.load
    if expected.model and not _is_model(run, expected.model):
        yield "MODEL", run.model.name, expected.model


def _is_model(run: Run, name: str) -> bool:
    """Whether a name means the run's model, whatever it is called."""
    if name == run.model.name:
        return True
    model = resolve_model(name)
    return replace(model, name=run.model.name, origin=run.model.origin) == run.model


def _is_of_site(run: Run, expected: Expected) -> bool:
    """Whether the run has what a site file says; model and data may come from elsewhere."""
    assert expected.site is not None
    site = with_absolute_paths(load_site(expected.site))
    if expected.model_path or not site.model_path:
        site = replace(site, model_path=run.site.model_path)
    if expected.dataset or not site.dataset:
        site = replace(site, dataset=run.site.dataset)
    return site == run.site
