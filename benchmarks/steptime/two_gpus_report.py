"""Compares the order that the planner gives layouts of two GPUs with that of measured steps.

    make pages

writes TWO_GPUS.md beside this file, from two_gpus_results.jsonl where that was measured. A test
holds the page up to date.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import mean, median, variance
from typing import Any

from two_gpus import GLOBAL_BATCH_SIZE, MODELS, SEQ_LENGTH, Entry, listed, predicted_seconds

from planner.commands import SWIFT_SELECTIVE
from planner.evaluate import Evaluator
from planner.layout import FULL_RECOMPUTE, Layout, Recompute
from planner.model_files import resolve_model
from planner.problem import Problem
from planner.recipe import load_recipe
from planner.split import even_split
from planner.stack import load_stack
from planner.topology_files import load_topology
from planner.workload import TunerType, Workload

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "two_gpus_results.jsonl"
FIRST_LOOK = FOLDER.parent / "memory" / "megatron_sft_2xh100.jsonl"
REPORT = FOLDER / "TWO_GPUS.md"
COLD_STEPS = 2  # the first is not in a row's seconds
SWIFT_DEFAULT = Recompute(granularity="selective", modules=SWIFT_SELECTIVE)
TOPOLOGIES = {"H100": "h100-8x-ib", "H200": "h200-8x-ib"}  # of the name of a GPU
LEAST_TAU, CLOSE, REPEATS = 0.85, 0.05, 3
NOISE_DEVIATIONS = 2.0  # of a difference; a pair that is closer is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A layout: what was predicted, and the median step of each repeat."""

    id: str
    layout: Layout
    predicted: float
    repeats: tuple[float, ...]

    @property
    def measured(self) -> float:
        """The median of the repeats."""
        return median(self.repeats)

    def by_plan(self) -> float:
        """The order of the plan."""
        return self.predicted

    def plainly(self) -> tuple[int, int]:
        """The naive order: least TP first, then least recomputation."""
        return self.layout.tp, {"none": 0, "selective": 1, "full": 2}[
            self.layout.recompute.granularity
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How well an order of layouts agrees with their measured seconds."""

    tau: float
    pairs: int  # that are further apart than the noise


def noise(rows: Sequence[Compared]) -> float:
    """Standard deviation of a repeat over its layout's mean, pooled over layouts; 0 without."""
    each = [variance(row.repeats) / mean(row.repeats) ** 2 for row in rows if len(row.repeats) > 1]
    return float(mean(each) ** 0.5) if each else 0.0


def least_difference(rows: Sequence[Compared]) -> float:
    """How much slower the one of two layouts is, over the other, where it is more than noise."""
    return NOISE_DEVIATIONS * noise(rows) * 2**0.5 / max(1, _repeats(rows)) ** 0.5


def order(rows: Sequence[Compared], key: Callable[[Compared], Any], least: float) -> Order:
    """Kendall's tau of a key with measured seconds; what the key does not order counts as 0.

    Pairs of layouts whose measured difference is at most `least`, a share, are left out.
    """
    total = pairs = 0
    for one, other in combinations(rows, 2):
        slow, fast = max(one.measured, other.measured), min(one.measured, other.measured)
        if slow / fast - 1 <= least:
            continue
        pairs += 1
        first, second = key(one), key(other)
        if first != second:
            total += 1 if (first < second) == (one.measured < other.measured) else -1
    return Order(tau=total / pairs if pairs else 0.0, pairs=pairs)


def _repeats(rows: Sequence[Compared]) -> int:
    return min((len(row.repeats) for row in rows), default=0)


def first_choice(rows: Sequence[Compared]) -> float:
    """How much slower the layout with the least predicted seconds is than the fastest, over it."""
    chosen = min(rows, key=lambda row: row.predicted)
    return chosen.measured / min(row.measured for row in rows) - 1


def compared(model: str, results: Sequence[dict[str, Any]], topology: str) -> list[Compared]:
    """Every layout of a model that was measured, predicted for the GPUs of a topology."""
    found = []
    for entry in listed():
        runs = [each for each in results if each["id"] == entry.row.id and each["status"] == 0]
        if entry.model == model and runs:
            warm = [median(each["seconds"][COLD_STEPS - 1 :]) for each in runs]
            found.append(_compared(entry, tuple(warm), topology))
    return found


def _compared(entry: Entry, repeats: tuple[float, ...], topology: str) -> Compared:
    return Compared(
        id=entry.row.id,
        layout=entry.layout,
        predicted=predicted_seconds(entry, topology),
        repeats=repeats,
    )


def first_look() -> list[Compared]:
    """Real runs of two H100s whose step was timed: a model of four layers, batches of their own."""
    rows = [json.loads(line) for line in FIRST_LOOK.read_text(encoding="utf-8").splitlines()]
    return [_looked_at(row) for row in rows if row["steady_step_seconds"] is not None]


def _looked_at(row: dict[str, Any]) -> Compared:
    words = row["args"].split()
    flags = dict(zip(words[::2], words[1::2], strict=True))

    def size(name: str) -> int:
        return int(flags.get(f"--{name}", 1))

    model = resolve_model("Qwen3-30B-A3B")
    model = replace(model, num_layers=4, moe_layers=model.moe_layers[:4])
    split = even_split(4, size("pipeline_model_parallel_size"), 1)
    assert split is not None
    layout = Layout(
        world_size=2,
        tp=size("tensor_model_parallel_size"),
        pp=size("pipeline_model_parallel_size"),
        ep=size("expert_model_parallel_size"),
        micro_batch_size=size("micro_batch_size"),
        global_batch_size=size("global_batch_size"),
        recompute=FULL_RECOMPUTE if "--recompute_granularity" in flags else SWIFT_DEFAULT,
        split=split,
    )
    problem = Problem(
        model=model,
        cluster=load_topology("h100-8x-ib", 1, 2),
        workload=Workload(
            seq_length=size("max_length"), global_batch_size=layout.global_batch_size
        ),
        stack=load_stack("gpu-kit-2026-11"),
        recipe=load_recipe(TunerType.FULL),
    )
    time = Evaluator(problem).batch(layout).step_time(layout.recompute)
    return Compared(
        id=row["tag"],
        layout=layout,
        predicted=time.total,
        repeats=(row["steady_step_seconds"],),
    )


HEAD = """\
# Layouts of two cut models on two GPUs

Written by `two_gpus_report.py` (`make pages`); a test holds it up to date.

`two_gpus.jsonl` lists {number} layouts, before any was measured:
{models}.
Every grid, pipeline and micro-batch that breaks no rule of the planner and fits two H100s, with
nothing recomputed or everything; all steps have {tokens} tokens. `two_gpus_run.py` trains each with
the real `megatron sft`, three rounds in three orders, and goes on where it was cut off. One run
trains at a time; while it does, the next ones start on other cores. The median of warm steps
counts. Pairs that are closer than the noise of repeats are left out. To be reached: Kendall's tau
of {tau} and better than the naive order (least TP, then least recomputation), and a first choice
within {close} % of the fastest. Nothing of the planner was fitted to these runs.

| model | layouts | EP2 | TP2 | PP2 | CP2 |
| --- | ---: | ---: | ---: | ---: | ---: |
"""

FIRST = """
## A first look

The only steps of two H100s that are known, of earlier runs (`../memory/megatron_sft_2xh100.jsonl`):
four layers at the widths of Qwen3-30B-A3B. Batches and lengths differ, so that they say nothing of
ranking; one repeat each, and of routing by random weights. Predicted at even routing.

| run | predicted, s | measured, s | error |
| --- | ---: | ---: | ---: |
"""


def page() -> str:
    """The text of TWO_GPUS.md."""
    entries = listed()
    tokens = GLOBAL_BATCH_SIZE * SEQ_LENGTH
    text = HEAD.format(
        number=len(entries),
        models=" and ".join(
            f"{cut.name} cut to {cut.num_layers} layers (micro-batch "
            f"{' or '.join(map(str, cut.micro_batch_sizes))})"
            for cut in MODELS.values()
        ),
        tokens=tokens,
        tau=LEAST_TAU,
        close=round(100 * CLOSE),
    )
    text += "".join(_counted(model, entries) for model in MODELS)
    text += "".join(_measured())
    text += FIRST
    for row in first_look():
        error = row.predicted / row.measured - 1
        text += f"| {row.id} | {row.predicted:.3f} | {row.measured:.3f} | {error:+.1%} |\n"
    return text


def _counted(model: str, entries: Sequence[Entry]) -> str:
    layouts = [entry.layout for entry in entries if entry.model == model]
    numbers = [
        sum(getattr(layout, name) == 2 for layout in layouts) for name in ("ep", "tp", "pp", "cp")
    ]
    cells = " | ".join(str(number) for number in (len(layouts), *numbers))
    return f"| {MODELS[model].name} | {cells} |\n"


def measured_runs() -> list[dict[str, Any]]:
    """What two_gpus_run.py wrote, of the GPUs on which most runs were made."""
    results = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    (gpus, _), *_ = Counter(tuple(each["gpus"]) for each in results).most_common()
    return [each for each in results if tuple(each["gpus"]) == gpus]


def layouts_of(model: str) -> list[Compared]:
    """Every layout of a model that was measured on those GPUs."""
    results = measured_runs()
    return compared(model, results, TOPOLOGIES[results[-1]["gpus"][0].split()[-1]])


def every_layout() -> list[Compared]:
    """Those of all models."""
    return [row for model in MODELS for row in layouts_of(model)]


def _measured() -> Iterator[str]:
    about = measured_runs()[-1]
    yield f"\nMeasured on {', '.join(about['gpus'])}: {about['stack']}, {about['date']}.\n"
    for model in MODELS:
        rows = layouts_of(model)
        yield f"\n## {MODELS[model].name}\n\n"
        yield from _of_a_model(model, rows) if rows else ["**Not run.**\n"]


def _of_a_model(model: str, rows: Sequence[Compared]) -> Iterator[str]:
    least = least_difference(rows)
    of_plan, naive = (order(rows, key, least) for key in (Compared.by_plan, Compared.plainly))
    every, naive_every = (order(rows, key, 0) for key in (Compared.by_plan, Compared.plainly))
    errors = [abs(row.predicted / row.measured - 1) for row in rows]
    numbers = Counter(len(row.repeats) for row in rows)
    repeats = " and ".join(f"{numbers[each]} layouts {each}" for each in sorted(numbers))
    yield (
        f"Runs of each: {repeats}. Noise of a run {noise(rows):.1%}, so that a pair counts where "
        f"one is at least {least:.0%} slower.\n\n"
    )
    yield "| | wanted | found | |\n| --- | --- | --- | --- |\n"
    first, enough = first_choice(rows), _repeats(rows) >= REPEATS
    yield _bar("runs of each", f"{REPEATS}", f"{_repeats(rows)} at least", kept=enough)
    found = f"{of_plan.tau:.2f} over {of_plan.pairs} pairs"
    yield _bar("tau", f"at least {LEAST_TAU}", found, kept=of_plan.tau >= LEAST_TAU)
    better = of_plan.tau > naive.tau
    yield _bar(
        "of the naive order", f"less than {of_plan.tau:.2f}", f"{naive.tau:.2f}", kept=better
    )
    found = f"{first:.1%} slower"
    yield _bar("first choice", f"at most {CLOSE:.0%} slower", found, kept=first <= CLOSE)
    yield (
        f"\nOver all {every.pairs} pairs, those within the noise too: tau {every.tau:.2f}, naive "
        f"order {naive_every.tau:.2f}. Errors of seconds: median {median(errors):.0%}, largest "
        f"{max(errors):.0%}.\n\n"
    )
    missing = {entry.row.id for entry in listed() if entry.model == model}
    missing -= {row.id for row in rows}
    if missing:
        yield f"{len(missing)} layouts of the list were not run, and are in no pair.\n\n"
    for run in measured_runs():
        if "note" in run and run["id"] in {row.id for row in rows}:
            seconds = median(run["seconds"][COLD_STEPS - 1 :])
            yield f"Of one run of {run['id']}, {seconds:.3f} s, which counts: {run['note']}.\n\n"
    yield "| layout | predicted, s | measured, s | error | runs |\n"
    yield "| --- | ---: | ---: | ---: | ---: |\n"
    for row in sorted(rows, key=lambda row: row.measured):
        error = row.predicted / row.measured - 1
        cells = f"{row.predicted:.3f} | {row.measured:.3f} | {error:+.1%} | {len(row.repeats)}"
        yield f"| {row.id} | {cells} |\n"


def _bar(name: str, wanted: str, found: str, *, kept: bool) -> str:
    return f"| {name} | {wanted} | {found} | {'kept' if kept else '**missed**'} |\n"


def main() -> None:
    """Write the page."""
    REPORT.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
