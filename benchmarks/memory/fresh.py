"""Chooses fresh ranks: nothing was fitted to them, and nobody had looked at them when measured.

    python benchmarks/memory/fresh.py

writes fresh.jsonl beside this file. They are drawn as `design.py` draws, by another seed: each
differs from every row of the design in four settings or more, as from each other, and shows pairs
of settings that those do not. They are short to measure, by a count of layers and tokens.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import design
from design import FULL, Setting, row_of
from design_models import FAMILIES

from measure.verify.row import Row
from planner.layout import Recompute
from planner.workload import TunerType

SEED = 20261125
PAGE = Path(__file__).parent / "fresh.jsonl"
NUMBERS = {"qwen3_moe": 5, "deepseek_v3": 4, "qwen2_moe": 3, "dense": 3, "glm4_moe": 4}
MOST_LAYERS = 24  # a microbatch's layers times the microbatches of a step
MOST_TOKENS = 300_000  # that pass a layer in a step

# Rows of their own: two ranks with their experts hotter and hotter.
HOT = Setting(
    model="Qwen3-235B-A22B", tp=2, pp=2, vpp=1, cp=1, ep=16, etp=1, dp=16, stage="last",
    chunk_layers=4, recompute=Recompute(granularity="selective", modules=("core_attn",)),
    micro_batch_size=1, seq_length=8192, documents=4, tuner=TunerType.FULL, loss_fusion=True,
    overlap=True, mtp=0,
)  # fmt: skip
HOT_GLM = replace(
    HOT,
    model="GLM-4.5-Air",
    tp=1,
    ep=8,
    dp=8,
    stage="first",
    recompute=FULL,
    seq_length=4096,
    micro_batch_size=2,
)
LOADS = (1.0, 1.5, 2.0)


def is_quick(setting: Setting) -> bool:
    """Whether a step is short: layers and tokens by hand."""
    layers = setting.num_microbatches * (setting.chunk_layers * setting.vpp + setting.mtp)
    tokens = setting.seq_length * setting.micro_batch_size // setting.cp // setting.tp
    return layers <= MOST_LAYERS and layers * tokens <= MOST_TOKENS


def settings(lot: random.Random) -> Iterator[tuple[str, Setting]]:
    """Family and setting of every row."""
    designed = list(design.settings(random.Random(design.SEED)))
    for family in FAMILIES:
        before = [setting for name, setting in designed if name == family]
        chosen = design.choose(family, NUMBERS[family], lot, before=before, wanted=is_quick)
        yield from ((family, setting) for setting in chosen)
    yield from (("qwen3_moe", replace(HOT, expert_load=load)) for load in LOADS)
    yield from (("glm4_moe", replace(HOT_GLM, expert_load=load)) for load in LOADS)


def rows_by_lot(
    chosen: Iterable[tuple[str, Setting]], letter: str, lot: random.Random
) -> list[Row]:
    """Rows of settings, numbered as they were chosen, in the order in which they are measured."""
    found = [
        replace(row_of(family, setting), id=f"{family}-{letter}{place:02}", set_aside=True)
        for place, (family, setting) in enumerate(chosen)
    ]
    lot.shuffle(found)
    return found


def rows() -> list[Row]:
    """The fresh rows."""
    lot = random.Random(SEED)
    return rows_by_lot(settings(lot), "f", lot)


def main() -> None:
    """Write fresh.jsonl."""
    PAGE.write_text("".join(row.to_json() + "\n" for row in rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
