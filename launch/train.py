"""Runs this node's part of a run."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from launch.training import title
from planner.command import write_output
from planner.errors import EnvironmentLacksError, UsageError
from planner.run import Run, read_run
from planner.site import Site, with_absolute_paths


def train(run_folder: Path, *, dry_run: bool, model_path: str, dataset: str) -> NoReturn:
    """Shows what will run, checks the GPUs of this machine, and becomes train.sh.

    `model_path` and `dataset` are what the user believes the run to have; empty: anything.
    Raises UsageError: those of `read_run`, run.planned_with;
    EnvironmentLacksError: launch.gpus_missing.
    """
    run = read_expected_run(run_folder, model_path=model_path, dataset=dataset)
    write_output(f"{title(run)}, from {run_folder}\n")
    if dry_run:
        os.environ["DRY_RUN"] = "1"
    else:
        check_gpus(run, os.environ, gpu_count())
    os.execvp("bash", ["bash", str((run_folder / "train.sh").absolute())])


def read_expected_run(run_folder: Path, *, model_path: str, dataset: str) -> Run:
    """The run of a folder, if it has the model and the data that are given; empty: anything.

    Relative paths count from here. Raises UsageError: those of `read_run`, run.planned_with.
    """
    run = read_run(run_folder)
    given = Site(model_path=model_path, dataset=(dataset,) if dataset else ())
    absolute = with_absolute_paths(given)
    for variable, planned, values in (
        ("MODEL_PATH", (run.site.model_path,), ((given.model_path,), (absolute.model_path,))),
        ("DATASET", run.site.dataset, (given.dataset, absolute.dataset)),
    ):
        if any(values[0]) and planned not in values:
            raise UsageError(
                "run.planned_with",
                path=run_folder,
                variable=variable,
                planned=" ".join(planned),
                given=" ".join(values[-1]),
            )
    return run


def check_gpus(run: Run, environment: Mapping[str, str], available: int) -> None:
    """Checks that a machine has the GPUs that the plan wants of it.

    Raises EnvironmentLacksError: launch.gpus_missing.
    """
    wanted = run.machines.gpus_per_node
    given = environment.get("NPROC_PER_NODE", "")
    if given.isdecimal():  # train.sh refuses anything else
        wanted = int(given)
    if available < wanted:
        raise EnvironmentLacksError(
            "launch.gpus_missing",
            available=available,
            wanted=wanted,
            nodes=run.machines.num_nodes,
            gpu=run.machines.gpu_name,
        )


def gpu_count() -> int:
    """GPUs that nvidia-smi lists; 0 where it does not run."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False
        )
    except OSError:
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
