"""Chooses a second lot of fresh ranks, for the model as it was refined after the first.

    python benchmarks/memory/fresh2.py

writes fresh2.jsonl beside this file. They are drawn as those of `fresh.py`, by another seed, and
differ from every row of the design and of the first lot in four settings or more. What the first
lot was worst at has draws of its own, of every family with experts: LoRA that recomputes whole
layers under TP, and LoRA under TP and CP. Two ranks have hot experts.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import design
import fresh
from design import Setting
from design_models import FAMILIES

from measure.verify.row import Row
from planner.workload import TunerType

SEED = 20261130
PAGE = Path(__file__).parent / "fresh2.jsonl"
NUMBERS = {"qwen3_moe": 4, "deepseek_v3": 4, "qwen2_moe": 3, "dense": 3, "glm4_moe": 4}
HOT = {"qwen3_moe": 2.0, "qwen2_moe": 1.5}  # load of the rank's experts over the mean


def _is_adapted(setting: Setting) -> bool:
    return fresh.is_quick(setting) and setting.tuner is TunerType.LORA and setting.tp > 1


def _recomputes_layers(setting: Setting) -> bool:
    return _is_adapted(setting) and setting.recompute.granularity == "full"


def _parts_sequences(setting: Setting) -> bool:
    return _is_adapted(setting) and setting.cp > 1


def _is_spread(setting: Setting) -> bool:
    return fresh.is_quick(setting) and setting.ep > 1 and setting.tuner is TunerType.FULL


def settings(lot: random.Random) -> Iterator[tuple[str, Setting]]:
    """Family and setting of every row."""
    before = [
        *design.settings(random.Random(design.SEED)),
        *fresh.settings(random.Random(fresh.SEED)),
    ]
    for family in FAMILIES:
        known = [setting for name, setting in before if name == family]
        draws: list[tuple[int, Callable[[Setting], bool], float]] = [
            (NUMBERS[family], fresh.is_quick, 1.0)
        ]
        if family != "dense":
            draws += [(1, _recomputes_layers, 1.0), (1, _parts_sequences, 1.0)]
        if family in HOT:
            draws.append((1, _is_spread, HOT[family]))
        for number, wanted, load in draws:
            for setting in design.choose(family, number, lot, before=known, wanted=wanted):
                known.append(setting)
                yield family, replace(setting, expert_load=load)


def rows() -> list[Row]:
    """The rows in the order in which they are measured."""
    lot = random.Random(SEED)
    return fresh.rows_by_lot(settings(lot), "g", lot)


def main() -> None:
    """Write fresh2.jsonl."""
    PAGE.write_text("".join(row.to_json() + "\n" for row in rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
