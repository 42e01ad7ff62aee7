"""What `plan` and `plan check` do, from a problem to standard output and a run folder."""

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from planner.assumptions import assumptions
from planner.balance import balanced
from planner.command import quoted, terminal_width, write_output
from planner.constraints import violations
from planner.errors import UsageError
from planner.evaluate import Evaluator
from planner.inputs import check_mtp, check_range
from planner.layout import FULL_RECOMPUTE, NO_RECOMPUTE, PipelineSplit, Recompute
from planner.pipeline_layout import layout_chunks
from planner.plan import Plan
from planner.planning import check_plan, make_plan
from planner.problem import Problem, Sizes, as_layout
from planner.reasons import not_trained
from planner.report.answer import Answer, answer_to_json
from planner.report.json_ import as_json as json_text
from planner.search import recompute_ladder, search
from planner.split import even_split
from planner.ties import error_assumptions, find_ties, with_ties
from planner.verdict import Verdict, verdict
from planner.workload import Load
from planner.yaml_files import suggestion

if TYPE_CHECKING:
    from planner.pareto import Point
    from planner.reach import Question, Reach
    from planner.site import Site

# What ms-swift recomputes when it is told "selective" and no modules (its default).
SWIFT_SELECTIVE = ("core_attn",)
RECOMPUTE_CHOICES = ("auto", "none", "selective", "full")
# More than that is a slip of the hand, not a layout.
LARGEST_SIZES = {"tp": 2**14, "pp": 2**10, "ep": 2**14, "etp": 2**14, "cp": 2**14, "vpp": 2**6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a user wants to see of a search; `most_gpus` is for the fewest GPUs: None, no limit."""

    top: int = 5
    pareto: bool = False
    question: "Question | None" = None
    most_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Scripts:
    """The run folder that a user wants, of the plan with a number."""

    number: int
    output_dir: Path
    model_path: str
    dataset: tuple[str, ...]
    load: Load
    site: Path | None


def run_search(
    problem: Problem,
    given: Collection[str],
    *,
    wanted: Wanted,
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
    reach = _reach(problem, given, wanted)
    if reach is not None:
        problem = reach.answer.problem
        given = {*given, *_ANSWERED[reach.question]}
    evaluator = Evaluator(problem)
    result = reach.answer.result if reach and reach.answer.result else search(evaluator)
    if not result.ranked:
        from planner.no_fit import nothing_found

        raise nothing_found(problem, result)
    ranked = result.ranked
    number = scripts.number if scripts else 1
    check_range("--pick", number, 1, len(ranked))
    ties = find_ties(evaluator, ranked)
    plans = [make_plan(evaluator, each.layout(problem)) for each in ranked[: wanted.top]]
    plans[0] = with_ties(plans[0], ties)
    answer = Answer(
        problem=problem,
        assumptions=[*assumptions(problem, plans[0].layout, given), *error_assumptions()],
        plans=plans,
        search=result,
        search_seconds=clock(),
        grids_that_fit=len({candidate.grid for candidate in ranked}),
        ties=ties,
        pareto=_pareto(problem, reach) if wanted.pareto else None,
        reach=reach,
    )
    written: list[Path] = []
    if scripts and site:
        layout = ranked[number - 1].layout(problem)
        picked = plans[0] if number == 1 else make_plan(evaluator, layout)
        written = _write(problem, picked, scripts, site)
    _print(answer, as_json=as_json, next_steps=_next_steps(answer, scripts, written))


# What an answer gives that a user did not.
_ANSWERED = {
    "fewest_gpus": ("gpus",),
    "longest_sequence": ("seq_length",),
}


def _reach(problem: Problem, given: Collection[str], wanted: Wanted) -> "Reach | None":
    """The answer to how few GPUs, or how long packs."""
    if wanted.question is None:
        return None
    from planner.reach import Question, fewest_gpus, longest_sequence

    if wanted.question is Question.FEWEST_GPUS:
        batch_given = "global_batch_size" in given
        return fewest_gpus(problem, most=wanted.most_gpus, batch_given=batch_given, tell=_tell)
    return longest_sequence(problem, tell=_tell)


def _pareto(problem: Problem, reach: "Reach | None") -> "list[Point]":
    """The front over all numbers of GPUs that were found to fit, or over one."""
    from planner.pareto import pareto_front

    problems = [problem]
    if reach is not None and reach.question == "fewest_gpus":
        problems = [trial.problem for trial in reach.trials if trial.fits]
    return pareto_front(problems, _tell)


def _tell(what: str) -> None:
    """What is searched now, to a person who waits."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"searching {what}", file=sys.stderr, flush=True)


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
    named = _balanced(evaluator, named)
    plan = check_plan(evaluator, named)
    assumed = assumptions(problem, plan.layout, given)
    answer = Answer(problem=problem, assumptions=assumed, plans=[plan])
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


def _balanced(evaluator: Evaluator, sizes: Sizes) -> Sizes:
    """With the split that is best for themselves, as a search has it, where layers do not divide:
    Megatron-Core has no split of its own for them."""
    problem = evaluator.problem
    uneven = problem.model.num_layers % (sizes.pp * sizes.vpp) > 0
    if not uneven or any(not broken.rule.evaluable for broken in violations(problem, sizes)):
        return sizes
    return replace(sizes, split=balanced(evaluator, as_layout(problem, sizes)).split)


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


def _site(scripts: Scripts, problem: Problem) -> "Site":
    """The site of the scripts, checked before the search. Raises UsageError: run.*."""
    from planner.site import Site, load_site, with_absolute_paths

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


def _write(problem: Problem, plan: Plan, scripts: Scripts, site: "Site") -> list[Path]:
    from launch.run_folder import write_run_folder
    from planner.run import Asked, Run, machines_of

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


def _next_steps(answer: Answer, scripts: Scripts | None, written: list[Path]) -> list[str]:
    """What a user may type next; nothing that would be refused."""
    second = answer.ties.second if answer.ties else None
    if scripts:
        folder = quoted(str(scripts.output_dir))
        convert = f"once: bash {folder}/convert_hf_to_mcore.sh"
        return [
            f"{len(written)} files written to {folder}; its README.md says what each does",
            *([convert] if scripts.load is Load.MCORE else []),
            f"on every node: bash {folder}/train.sh",
            *([_TRY_TOO.format(second.number)] if second and scripts.number == 1 else []),
        ]
    if not_trained(answer.problem.model, answer.problem.stack) is not None:
        return []
    words = ["plan", *_words_of_the_answer(answer, sys.argv[1:])]
    steps = [[*words, *_FOR_SCRIPTS, "runs/NAME"]]
    if second is not None:
        steps.append([*words, *_FOR_SCRIPTS, "runs/OTHER", "--pick", str(second.number)])
    return [" ".join(quoted(word) for word in step) for step in steps]


_FOR_SCRIPTS = ("--model-path", "MODEL", "--dataset", "DATA", "--output-dir")
_TRY_TOO = "to try plan {0} too: the same with --pick {0} and another --output-dir"


def _words_of_the_answer(answer: Answer, words: list[str]) -> list[str]:
    """What a user typed, with the answer in place of the question."""
    cluster, workload = answer.problem.cluster, answer.problem.workload
    if answer.reach is None:
        return [word for word in words if word != "--pareto"]
    found = {"--gpus": cluster.num_gpus, "--nodes": cluster.num_nodes}
    found["--seq-length"] = workload.seq_length
    found["--global-batch-size"] = workload.global_batch_size
    kept, skipped = [], False
    for word in words:
        dropped = skipped or word.partition("=")[0] in (*found, *_QUESTIONS, "--pareto")
        skipped = not skipped and word in found  # its value follows
        if not dropped:
            kept.append(word)
    return [*(text for flag, size in found.items() for text in (flag, str(size))), *kept]


_QUESTIONS = ("--fewest-gpus", "--longest-sequence")


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
