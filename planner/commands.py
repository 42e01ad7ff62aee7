"""What `plan` and `plan check` do, from a problem to standard output and a run folder."""

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from planner.assumptions import assumptions
from planner.command import quoted, terminal_width, write_output
from planner.constraints import violations
from planner.errors import UsageError
from planner.evaluate import Evaluator
from planner.inputs import check_mtp, check_range
from planner.layout import NO_RECOMPUTE, PipelineSplit, Recompute
from planner.pipeline_layout import layout_chunks
from planner.plan import Plan
from planner.planning import check_plan, make_plan
from planner.problem import Problem, Sizes, as_layout
from planner.reasons import not_trained
from planner.report.answer import Answer, answer_to_json
from planner.report.json_ import as_json as json_text
from planner.run import Asked, Load, Run, machines_of
from planner.search import FULL_RECOMPUTE, recompute_ladder, search
from planner.site import Site, load_site, with_absolute_paths
from planner.split import even_split
from planner.verdict import Verdict, verdict
from planner.yaml_files import suggestion

# What ms-swift recomputes when it is told "selective" and no modules (its default).
SWIFT_SELECTIVE = ("core_attn",)
RECOMPUTE_CHOICES = ("auto", "none", "selective", "full")
# More than that is a slip of the hand, not a layout.
LARGEST_SIZES = {"tp": 2**14, "pp": 2**10, "ep": 2**14, "etp": 2**14, "cp": 2**14, "vpp": 2**6}


@dataclass(frozen=True, slots=True)
class Scripts:
    """The run folder that a user wants."""

    output_dir: Path
    model_path: str
    dataset: tuple[str, ...]
    load: Load
    site: Path | None


def run_search(
    problem: Problem,
    given: Collection[str],
    *,
    top: int,
    as_json: bool,
    scripts: Scripts | None,
    clock: Callable[[], float],
) -> None:
    """Search, print the answer, write the run folder.

    Raises UsageError: input.*, run.*; NothingFitsError: nofit.error.
    """
    _check_recompute(problem)
    check_mtp(problem)
    site = _site(scripts, problem) if scripts else None
    evaluator = Evaluator(problem)
    result = search(evaluator)
    if not result.ranked:
        from planner.no_fit import nothing_found

        raise nothing_found(problem, result)
    plans = [make_plan(evaluator, candidate.layout(problem)) for candidate in result.ranked[:top]]
    answer = Answer(
        problem=problem,
        assumptions=assumptions(problem, given),
        plans=plans,
        search=result,
        search_seconds=clock(),
        grids_that_fit=len(result.ranked),
    )
    written: list[Path] = []
    if scripts and site:
        written = _write(problem, plans[0], scripts, site)
    _print(answer, as_json=as_json, next_steps=_next_steps(problem, scripts, written))


def run_check(
    problem: Problem,
    given: Collection[str],
    *,
    sizes: dict[str, int],
    modules: tuple[str, ...] | None,
    as_json: bool,
) -> None:
    """Evaluate the layout that a user names and print it. Raises UsageError: input.*."""
    _check_recompute(problem)
    for name, most in LARGEST_SIZES.items():
        check_range(f"--{name}", sizes[name], 1, most)
    evaluator = Evaluator(problem)
    named = Sizes(
        world_size=problem.cluster.num_gpus,
        micro_batch_size=problem.workload.micro_batch_size or 1,
        tp=sizes["tp"],
        pp=sizes["pp"],
        ep=sizes["ep"],
        etp=sizes["etp"],
        cp=sizes["cp"],
        vpp=_virtual_stages(problem, sizes),
    )
    named = replace(named, split=_split(evaluator, named))
    named = replace(named, recompute=_named_recompute(evaluator, named, modules))
    plan = check_plan(evaluator, named)
    answer = Answer(problem=problem, assumptions=assumptions(problem, given), plans=[plan])
    _print(answer, as_json=as_json, next_steps=[])


def _check_recompute(problem: Problem) -> None:
    choice = problem.workload.recompute
    if choice not in RECOMPUTE_CHOICES:
        raise UsageError(
            "input.choice",
            flag="--recompute",
            value=repr(choice),
            choices=", ".join(RECOMPUTE_CHOICES),
            suggestion=suggestion(choice, RECOMPUTE_CHOICES),
        )


def _virtual_stages(problem: Problem, sizes: dict[str, int]) -> int:
    """As given; of a layout string, what its chunks leave for the stages, as ms-swift has it."""
    layout = problem.settings.pipeline_model_parallel_layout
    if layout is None or sizes["vpp"] > 1:
        return sizes["vpp"]
    return max(1, len(layout_chunks(layout)) // sizes["pp"])


def _split(evaluator: Evaluator, sizes: Sizes) -> PipelineSplit:
    """As Megatron-Core reads the sizes: named, or even; solved where the layers do not divide."""
    layers = evaluator.problem.model.num_layers
    if evaluator.problem.settings.names_split:
        return evaluator.split(sizes.pp, sizes.vpp) or _one_layer_each(layers, sizes)
    found = even_split(layers, sizes.pp, sizes.vpp) or evaluator.split(sizes.pp, sizes.vpp)
    return found or _one_layer_each(layers, sizes)


def _one_layer_each(layers: int, sizes: Sizes) -> PipelineSplit:
    """A layer a chunk while there are any: what is left of a split with more chunks than layers."""
    ends = [min(layers, chunk) for chunk in range(sizes.pp * sizes.vpp + 1)]
    chunks = list(pairwise(ends))
    return PipelineSplit(tuple(tuple(chunks[stage :: sizes.pp]) for stage in range(sizes.pp)))


def _named_recompute(
    evaluator: Evaluator, sizes: Sizes, modules: tuple[str, ...] | None
) -> Recompute:
    choice = evaluator.problem.workload.recompute
    if choice == "selective":
        return Recompute(granularity="selective", modules=modules or SWIFT_SELECTIVE)
    if choice == "none":
        return NO_RECOMPUTE
    if choice == "full":
        return FULL_RECOMPUTE
    return _cheapest_that_fits(evaluator, sizes)


def _cheapest_that_fits(evaluator: Evaluator, sizes: Sizes) -> Recompute:
    """The fastest choice of the ladder that fits, or the one that needs least."""

    problem = evaluator.problem
    if any(not broken.rule.evaluable for broken in violations(problem, sizes)):
        return NO_RECOMPUTE
    layout = as_layout(problem, sizes)
    batch = evaluator.batch(layout)
    layers = problem.model.num_layers // (sizes.pp * sizes.vpp)
    usable = problem.cluster.gpu.memory_usable_bytes

    def order(recompute: Recompute) -> tuple[int, float]:
        used = batch.device_used(recompute)
        found = verdict(used, usable)
        exceeds = found is Verdict.EXCEEDS
        return found.order, used if exceeds else batch.step_seconds(recompute)

    return min(recompute_ladder(problem, layers), key=order)


def _site(scripts: Scripts, problem: Problem) -> Site:
    """The site of the scripts, checked before the search. Raises UsageError: run.*."""
    refused = not_trained(problem.model, problem.stack)
    if refused is not None:
        raise UsageError("run.not_trained", model=problem.model.name, why=refused)
    site = load_site(scripts.site) if scripts.site else Site()
    if scripts.model_path:
        site = replace(site, model_path=scripts.model_path)
    if scripts.dataset:
        site = replace(site, dataset=scripts.dataset)
    missing = [
        flag
        for flag, value in (("--model-path", site.model_path), ("--dataset", site.dataset))
        if not value
    ]
    if missing:
        raise UsageError("run.needs", flags=" and ".join(missing))
    if os.path.lexists(scripts.output_dir):
        raise UsageError("run.folder_exists", path=scripts.output_dir)
    return with_absolute_paths(site)


def _write(problem: Problem, plan: Plan, scripts: Scripts, site: Site) -> list[Path]:
    from launch.run_folder import write_run_folder

    run = Run(
        plan=plan,
        recipe=problem.recipe,
        site=site,
        model=problem.model,
        machines=machines_of(problem.cluster),
        stack=problem.stack,
        load=scripts.load,
        task=problem.workload.task,
        asked=Asked(
            topology=problem.cluster.name, workload=problem.workload, settings=problem.settings
        ),
    )
    return [scripts.output_dir / name for name in write_run_folder(run, scripts.output_dir)]


def _next_steps(problem: Problem, scripts: Scripts | None, written: list[Path]) -> list[str]:
    """What a user may type next; nothing that would be refused."""
    if scripts:
        folder = quoted(str(scripts.output_dir))
        convert = f"once: bash {folder}/convert_hf_to_mcore.sh"
        return [
            f"{len(written)} files written to {folder}; its README.md says what each does",
            *([convert] if scripts.load is Load.MCORE else []),
            f"on every node: bash {folder}/train.sh",
        ]
    if not_trained(problem.model, problem.stack) is not None:
        return []
    words = ["plan", *sys.argv[1:], *_FOR_SCRIPTS]
    return [" ".join(quoted(word) for word in words)]


_FOR_SCRIPTS = ("--model-path", "MODEL", "--dataset", "DATA", "--output-dir", "runs/NAME")


def _print(answer: Answer, *, as_json: bool, next_steps: list[str]) -> None:
    if as_json:
        write_output(json_text(answer_to_json(answer)))
        return
    from planner.report.text import answer_text

    terminal = sys.stdout is not None and sys.stdout.isatty()
    text = answer_text(
        answer,
        width=terminal_width(),
        color=terminal and not os.environ.get("NO_COLOR"),
        next_steps=next_steps,
    )
    write_output(text)
