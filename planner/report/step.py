"""Where the time of a step goes, in words: what is seen, what is hidden, and saving."""

from collections.abc import Iterator

from planner.plan import Plan
from planner.problem import Problem
from planner.report.numbers import gib, seconds
from planner.saving import ASSUMED_DISK_BYTES_PER_SECOND
from planner.step_time import CATEGORIES
from planner.ties import words_of
from planner.units import GIGA

SIGNIFICANT_SECONDS = 0.0005  # less is not shown
# Of a step: another stage's communication is named where it is longer by so much.
SIGNIFICANT_PART = 0.01

# Terms of which something may be hidden; a name of its own for each.
HIDDEN = {
    "sequence_parallel_collectives": "tp communication",
    "expert_all_to_all": "ep communication",
    "context_parallel_ring": "cp communication",
    "stage_boundaries": "pp communication",
    "gradient_reduce_scatter": "dp communication of gradients",
    "parameter_all_gather": "of parameters",
}


def step_lines(problem: Problem, plan: Plan) -> Iterator[str]:
    """Lines about the time of a plan with stages."""
    yield _seen(problem, plan)
    yield from _hidden(plan)
    yield from _elsewhere(plan)
    yield _saving(plan)


def _seen(problem: Problem, plan: Plan) -> str:
    parts = [
        f"{words_of(name)} {seconds(value)}"
        for name, value in plan.step_seconds.items()
        if name in CATEGORIES and value > SIGNIFICANT_SECONDS
    ]
    text = ", ".join(parts) + f" = {seconds(plan.step_seconds['total'])} s"
    if plan.layout.pp > 1:
        text += f" of stage {plan.step_seconds['slowest_stage']}, the slowest"
    straggler = plan.step_seconds["of_which"]["busiest_expert_rank"]
    if straggler > SIGNIFICANT_SECONDS:
        load = problem.workload.routing_imbalance
        text += f"; {seconds(straggler)} of it as the busiest experts have {load:g} x the mean"
    return text


def _hidden(plan: Plan) -> Iterator[str]:
    """What something else covers, by name."""
    parts = [
        f"{name} {seconds(plan.step_seconds['hidden'][term])}"
        for term, name in HIDDEN.items()
        if plan.step_seconds["hidden"].get(term, 0.0) > SIGNIFICANT_SECONDS
    ]
    if parts:
        yield f"hidden besides: {', '.join(parts)} s"


def _elsewhere(plan: Plan) -> Iterator[str]:
    """Communication of which another stage has clearly more."""
    least = SIGNIFICANT_PART * plan.step_seconds["total"]
    parts = [
        f"stage {most['stage']} has {seconds(most['seconds'])} of {words_of(name)}"
        for name, most in plan.step_seconds["elsewhere"].items()
        if most["seconds"] - plan.step_seconds[name] > least
    ]
    if parts:
        yield f"while the slowest stage is busy, {', '.join(parts)}"


def _saving(plan: Plan) -> str:
    saving = plan.saving
    return (
        f"saving {gib(saving['bytes'])} GiB every {saving['interval_steps']} steps (save_steps) "
        f"takes {seconds(saving['seconds'])} s at {ASSUMED_DISK_BYTES_PER_SECOND / GIGA:g} GB/s a "
        f"node, assumed: {seconds(saving['seconds_per_step'])} s a step, the same for all layouts "
        f"and in none of these figures; with it {saving['tokens_per_second_per_gpu']:.0f} "
        "tokens/s/GPU"
    )
