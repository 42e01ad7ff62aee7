"""Tables that are asked for beside the ranking: the Pareto front, how few GPUs, how long packs."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from planner.pareto import Point
from planner.reach import LENGTH_STEP, Question, Reach, Trial
from planner.report.numbers import gib, seconds
from planner.report.tables import SIZES, plain_table, recompute_cell, size_cells
from planner.verdict import Resumes

_PER_BILLION_TOKENS = 1e9 / 3600  # hours of a GPU for seconds a token


def pareto_table(points: Sequence[Point]) -> Table:
    """The members of a front, the fastest first."""
    table = plain_table()
    several = len({point.num_gpus for point in points}) > 1
    names = (*(["GPUs"] if several else []), "tok/s/GPU", "GiB", "s/step", *SIZES)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("recompute", no_wrap=True)
    for point in points:
        row = [str(point.num_gpus)] if several else []
        row += [
            f"{point.tokens_per_second_per_gpu:.0f}",
            gib(point.device_used) + ("!" if point.verdict == "tight" else ""),
            seconds(point.step_seconds),
            *size_cells(point.layout),
            recompute_cell(point.layout),
        ]
        table.add_row(*row)
    return table


def pareto_words(points: Sequence[Point]) -> str:
    """What the table of a front is."""
    several = len({point.num_gpus for point in points}) > 1
    weighed = "throughput, memory and number of GPUs" if several else "throughput and memory"
    return f"Pareto front: no layout that fits beats one of these in {weighed} at once"


def reach_words(reach: Reach) -> str:
    """The answer in sentences."""
    return f"{_answer_words(reach)}{_reach_resuming_words(reach)}"


def _reach_resuming_words(reach: Reach) -> str:
    """That the answer may not go on after an interruption, and what of the trials can."""
    answer = reach.answer
    if answer.resumes:
        return ""
    maybe = answer.plan is not None and answer.plan.resumes == Resumes.MAYBE.value
    may = "may not be able to" if maybe else "cannot"
    text = f". Plan 1 {may} go on after an interruption there"
    able = [trial for trial in reach.trials if trial.fits and trial.can_resume]
    if not able:
        return text + ", and no plan of those tried is known to"
    if answer in able:
        assert answer.result is not None
        return text + f"; plan {answer.result.resuming} can"
    if reach.question is Question.FEWEST_GPUS:
        return text + f"; {able[0].num_gpus} GPUs are the fewest of those tried where a plan can"
    longest = able[-1].problem.workload.seq_length
    return text + f"; {longest} tokens are the longest of those tried where a plan can"


def _answer_words(reach: Reach) -> str:
    workload = reach.answer.problem.workload
    tight = "" if reach.answer.fits else ", without the margin"
    if reach.question is Question.FEWEST_GPUS:
        return (
            f"{reach.answer.num_gpus} GPUs are the fewest of those tried that fit{tight}; h/Gtok: "
            "GPU hours for a billion tokens; *: none is both faster and cheaper a token"
        )
    return (
        f"packs of {workload.seq_length} tokens are the longest that fit{tight}, in steps of "
        f"{LENGTH_STEP}"
    )


def reach_table(reach: Reach) -> Table:
    """A line for each trial; those that nobody had to search on one line."""
    fewest = reach.question is Question.FEWEST_GPUS
    table = plain_table()
    varied = ("GPUs", "nodes", "batch") if fewest else ("tokens",)
    for name in varied:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for name in ("GiB", "s/step", "tok/s/GPU", *(["h/Gtok"] if fewest else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("layout")
    unsearched = [trial for trial in reach.trials if trial.result is None]
    if unsearched:
        first, last = unsearched[0].num_gpus, unsearched[-1].num_gpus
        numbers = f"{first}-{last}" if first != last else str(first)
        why = "too few for weights, gradients and states"
        table.add_row(numbers, "", "", "exceeds", "", "", "", "", why)
    for trial in reach.trials:
        if trial.result is not None:
            style = "bold" if trial is reach.answer else ""
            table.add_row(*_trial(reach, trial, fewest), style=style)
    return table


def _trial(reach: Reach, trial: Trial, fewest: bool) -> list[str | Text]:
    cluster, workload, plan = trial.problem.cluster, trial.problem.workload, trial.plan
    answer = ">" if trial is reach.answer else ""
    if fewest:
        row: list[str | Text] = [f"{answer}{trial.num_gpus}", str(cluster.num_nodes)]
        row.append(str(workload.global_batch_size))
    else:
        row = [f"{answer}{workload.seq_length}"]
    row.append(trial.verdict)
    if plan is None:
        return row
    row += [
        gib(plan.device_used),
        seconds(plan.step_seconds["total"]),
        f"{plan.tokens_per_second_per_gpu:.0f}",
    ]
    if fewest:
        hours = f"{trial.costs[1] * _PER_BILLION_TOKENS:.0f}"
        row.append(hours + ("*" if reach.on_front(trial) else " "))
    return [*row, str(plan.layout)]
