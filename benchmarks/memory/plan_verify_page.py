"""The part of README.md on `plan verify` as a command: one rank, predicted as it was measured."""

import json
from functools import cache
from typing import Any

from design_errors import MeasuredRank, fresh, fresh2, ranks
from predict import FOLDER, STACK, flags_of

from measure.verify.report import parts_at_peak
from planner.evaluate import Evaluator
from planner.layout import Layout
from planner.memory import (
    HOLES_OF_EXPERT_ROWS,
    HOLES_OF_WORKING_MEMORY,
    HOLES_OF_WORKING_MEMORY_LORA,
    StageMemory,
)
from planner.memory_terms import TERMS
from planner.model_files import resolve_model
from planner.problem import Problem
from planner.recipe import load_recipe
from planner.split import even_split
from planner.stack import load_stack
from planner.topology_files import load_topology
from planner.units import GIB
from planner.workload import ASSUMED_ROUTING_IMBALANCE, TunerType, Workload

TITLES = {
    "after_build": "after building, GiB",
    "steady": "between steps, GiB",
    "peak_allocated": "peak allocated, GiB",
    "peak_reserved": "peak reserved, GiB",
    "device_used": "device use, without NCCL, GiB",
    "compute_seconds": "compute of a step, s",
}
_STATIC = frozenset(term.id for term in TERMS if term.level == "pipeline")

TEXT = """
## `plan verify`, the command

Installed, `plan verify RUN --trace` measured a rank of a plan for eight H200s: Qwen3-30B-A3B, all
{layers} layers, LoRA of rank 8, EP8, packs of 2,048 tokens, one microbatch (what it printed is in
`plan_verify_h200.json`). It fed balanced experts and four documents a pack, and is predicted here
under the same:

{table}

What it printed itself was +11.2 % for reserved memory and +10.9 % for device use: it compared with
predictions at {imbalance:g} times the mean load, where {load:.1%} more is reserved. Now it measures
ranks at the load, and with documents as long, as their plan is for. The peak, in the parts that
call sites tell apart:

{parts}

**What is left of reserved memory** ({over:.2f} GiB too much) is holes of the allocator:
{holes:.2f} GiB are predicted, {working:.2f} of them as {lora:.0%} of working memory, which LoRA is
taken to leave; {measured:.2f} GiB are there, {fraction:.1%}. The {number} other ranks of LoRA left
{low:.0%} to {high:.0%}, with {most:g} layers at the most and two microbatches or more. Counted in
what a layer has of working memory, this rank left {per_layer:.1f} layers' worth and they
{few:.1f} to {many:.1f}: what comes and goes in a layer need not grow with the layers that are kept.
One rank does not show that, the others are spread no less by it, and no constant was changed. With
the {full:.0%} of full fine-tuning the error would be {as_full:+.1%}.

**Time is the host's here**: predicted is what the host takes to launch {layers} layers with
adapters ({printed:.2f} s when it was printed, before that was fitted to more ranks), and longer
documents change nothing. How fast that host was, was not looked at then; it is now, before each
step.
"""


@cache
def record() -> dict[str, Any]:
    """What the command printed, and of what."""
    found: dict[str, Any] = json.loads((FOLDER / "plan_verify_h200.json").read_text("utf-8"))
    return found


@cache
def predicted(imbalance: float) -> tuple[StageMemory, float, float]:
    """Memory of the rank at a load of its experts, seconds of a step, and bytes of its experts'
    hidden states."""
    found, model = record(), resolve_model("Qwen3-30B-A3B")
    split = even_split(model.num_layers, 1)
    assert split is not None
    workload = Workload(
        seq_length=2048,
        global_batch_size=8,
        tuner_type=TunerType.LORA,
        routing_imbalance=imbalance,
        mean_document_tokens=2048 // found["documents_per_pack"],
    )
    problem = Problem(
        model=model,
        cluster=load_topology("h200-8x-ib", 1, 8),
        workload=workload,
        stack=load_stack(STACK),
        recipe=load_recipe(TunerType.LORA),
    )
    layout = Layout(world_size=8, ep=8, global_batch_size=8, split=split)
    batch = Evaluator(problem).batch(layout)
    (memory,) = batch.memory(layout.recompute)
    (seconds,) = batch.step_time(layout.recompute).compute_seconds
    rows = 2048 * 8 * model.hidden_size * 2 * imbalance
    return memory, seconds, rows


def pairs() -> dict[str, tuple[float, float]]:
    """Predicted and measured, in the units of the page."""
    memory, seconds, _ = predicted(record()["expert_load"])
    printed = {name: measured for name, (_, measured) in record()["printed"].items()}
    sizes = {name: getattr(memory, name) / GIB for name in TITLES if name != "compute_seconds"}
    sizes["device_used"] -= memory.nccl / GIB
    return {name: ({**sizes, "compute_seconds": seconds}[name], printed[name]) for name in TITLES}


def _working(memory: StageMemory, peak: float) -> float:
    """Bytes of a peak but for what is static."""
    terms = memory.terms_at_imbalance.items()
    return peak - sum(size for name, size in terms if name in _STATIC)


def _of_lora() -> list[tuple[float, float, float]]:
    """Of each other rank of LoRA: holes over working memory, layers on the rank, and holes in what
    a layer has of working memory."""
    return [
        _holes(rank)
        for rank in (*ranks(), *fresh(), *fresh2())
        if flags_of(rank.row)["tuner_type"] == "lora"
    ]


def _holes(rank: MeasuredRank) -> tuple[float, float, float]:
    peak, reserved = rank.result["peak_allocated"], rank.result["peak_reserved"]
    fraction = (reserved - peak) / _working(rank.memory, peak)
    layers = rank.row.config["num_hidden_layers"] / rank.layout.pp
    return fraction, layers, fraction * layers


def _row(title: str, predicted: float, measured: float) -> str:
    error = round(predicted / measured - 1, 3) + 0.0  # no -0.0
    return f"| {title} | {predicted:.2f} | {measured:.2f} | {error:+.1%} |"


def _table(rows: dict[str, tuple[float, float]]) -> str:
    lines = ["| | predicted | measured | error |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [_row(title, *pair) for title, pair in rows.items()])


def section() -> list[str]:
    """The lines of the page."""
    memory, _, rows = predicted(record()["expert_load"])
    found = pairs()
    working = _working(memory, memory.peak_allocated) / GIB
    sites = [(size * GIB, site) for size, site in record()["at_peak"]]
    peak = found["peak_allocated"][1] * GIB
    parts = parts_at_peak(memory.terms, peak, sites)
    measured = found["peak_reserved"][1] - found["peak_allocated"][1]
    others, layers = _of_lora(), resolve_model("Qwen3-30B-A3B").num_layers
    as_full = memory.peak_allocated + HOLES_OF_WORKING_MEMORY * working * GIB
    as_full += HOLES_OF_EXPERT_ROWS * rows
    hot = predicted(ASSUMED_ROUTING_IMBALANCE)[0]
    return [
        TEXT.format(
            table=_table({TITLES[name]: pair for name, pair in found.items()}),
            parts=_table({f"{t}, GiB": (p / GIB, m / GIB) for t, (p, m) in parts.items()}),
            imbalance=ASSUMED_ROUTING_IMBALANCE,
            load=hot.peak_reserved / memory.peak_reserved - 1,
            over=found["peak_reserved"][0] - found["peak_reserved"][1],
            holes=(memory.peak_reserved - memory.peak_allocated) / GIB,
            working=HOLES_OF_WORKING_MEMORY_LORA * working,
            lora=HOLES_OF_WORKING_MEMORY_LORA,
            measured=measured,
            fraction=measured / working,
            number=len(others),
            low=min(fraction for fraction, _, _ in others),
            high=max(fraction for fraction, _, _ in others),
            most=max(layers_on_rank for _, layers_on_rank, _ in others),
            layers=layers,
            printed=record()["printed"]["compute_seconds"][0],
            per_layer=measured / working * layers,
            few=min(each for _, _, each in others),
            many=max(each for _, _, each in others),
            full=HOLES_OF_WORKING_MEMORY,
            as_full=as_full / GIB / found["peak_reserved"][1] - 1,
        )
    ]
