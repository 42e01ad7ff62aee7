"""Errors on measured ranks: fresh ones, and those of the design, set aside or fitted to."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

from design_models import SET_ASIDE_FAMILY
from error_texts import CLEAN, FIRST_LOT, LOOKED_AT, TEXT
from predict import Predicted, Result, flags_of, predict, results, rows

from planner.units import GIB

# A process takes 0.70 to 0.93 GiB of the device beside what it reserved: its CUDA context.
MOST_CONTEXT_BYTES = GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRank(Predicted):
    """A measured rank, predicted at the load that its experts got.

    `first` is what was predicted of it in bytes before anybody had looked at its errors: where it
    is given, it counts, and not what the model says now.
    """

    first: Result | None = None

    @property
    def has_device_alone(self) -> bool:
        """Whether no other process had memory of the device, of which use is total less free."""
        beside = self.result["device_used"] - self.result["peak_reserved"]
        return bool(beside <= MOST_CONTEXT_BYTES)

    @property
    def pairs(self) -> dict[str, tuple[float, float]]:
        """Predicted and measured bytes; `dynamic` is the peak less what is there between steps.

        What the device had in use is left out where another process had some of it.
        """
        memory, result = self.memory, self.result
        peak = memory.peak_allocated_at_imbalance
        pairs = {
            "after_build": (memory.after_build, result["after_build"]["allocated"]),
            "steady": (memory.steady, result["steady"]),
            "peak_allocated": (peak, result["peak_allocated"]),
            "dynamic": (peak - memory.steady, result["peak_allocated"] - result["steady"]),
            "peak_reserved": (memory.peak_reserved, result["peak_reserved"]),
            "device_used": (memory.device_used - memory.nccl, result["device_used"]),
        }
        if not self.has_device_alone:
            del pairs["device_used"]
        if self.first is None:
            return pairs
        return {name: (self.first[name], measured) for name, (_, measured) in pairs.items()}

    def error(self, name: str) -> float:
        """Predicted over measured, less one."""
        predicted, measured = self.pairs[name]
        return predicted / measured - 1


def nine_of_ten(errors: Iterable[float]) -> float:
    """What nine of ten of these stay within."""
    ordered = sorted(errors)
    return ordered[math.ceil(0.9 * len(ordered)) - 1]


def _ranks(name: str, gpu: str = "h100") -> tuple[MeasuredRank, ...]:
    """The rows of a file that were measured, in its order."""
    measured = results(f"{name}_{gpu}.jsonl")
    each = [predict(row, measured[row.id]) for row in rows(f"{name}.jsonl") if row.id in measured]
    return tuple(
        MeasuredRank(**{field: getattr(one, field) for field in Predicted.__slots__})
        for one in each
    )


def _as_said(ranks: Iterable[MeasuredRank], name: str) -> tuple[MeasuredRank, ...]:
    """The ranks with what a file says that was predicted of them first."""
    first = results(name)
    return tuple(replace(rank, first=first[rank.row.id]) for rank in ranks)


@cache
def ranks() -> tuple[MeasuredRank, ...]:
    """Every rank of the design, predicted and measured."""
    return _ranks("design")


@cache
def fresh() -> tuple[MeasuredRank, ...]:
    """Every fresh rank of the first lot as it is predicted now, and measured."""
    return _ranks("fresh")


@cache
def fresh2() -> tuple[MeasuredRank, ...]:
    """The measured ranks of the second lot, as they are predicted now."""
    return _ranks("fresh2", "h200")


@cache
def first_look_fused() -> tuple[MeasuredRank, ...]:
    """Ranks with fused weight gradients as they were predicted before any was measured."""
    return _as_said(_ranks("fused", "h200"), "first_look2.jsonl")


@cache
def first_look() -> tuple[MeasuredRank, ...]:
    """Every fresh rank of the first lot as it was predicted first, and measured."""
    return _as_said(fresh(), "first_look.jsonl")


@cache
def first_look2() -> tuple[MeasuredRank, ...]:
    """The measured ranks of the second lot as they were predicted before that."""
    return _as_said(fresh2(), "first_look2.jsonl")


def _is_hot(rank: MeasuredRank) -> bool:
    return rank.row.expert_load != 1.0


def _is_apart(rank: MeasuredRank) -> bool:
    return rank.row.family == SET_ASIDE_FAMILY


Group = tuple[str, Callable[[], Iterable[MeasuredRank]], Callable[[MeasuredRank], bool]]
GROUPS: tuple[Group, ...] = (
    ("**second lot, all**", first_look2, lambda rank: True),
    ("second lot, of families fitted to", first_look2, lambda rank: not _is_apart(rank)),
    ("second lot, a family of its own (GLM-4.5-Air)", first_look2, _is_apart),
    ("second lot, hot experts, 1.5 and 2.0 times the mean", first_look2, _is_hot),
    ("fused weight gradients", first_look_fused, lambda rank: True),
    ("first lot, all", first_look, lambda rank: True),
    ("first lot, of families fitted to", first_look, lambda rank: not _is_apart(rank)),
    ("first lot, a family of its own (GLM-4.5-Air)", first_look, _is_apart),
    ("first lot, hot experts, 1.5 and 2.0 times the mean", first_look, _is_hot),
    ("first lot, all, as the model says now", fresh, lambda rank: True),
    ("looked at, all", ranks, lambda rank: rank.row.set_aside),
    ("looked at, a family of its own (GLM-4.5-Air)", ranks, _is_apart),
    ("looked at or fitted to, hot experts", ranks, _is_hot),
    ("fitted to", ranks, lambda rank: not rank.row.set_aside),
)
SHOWN = {
    "after_build": "after building",
    "steady": "between steps",
    "peak_allocated": "peak allocated",
    "dynamic": "its dynamic part",
    "peak_reserved": "peak reserved",
    "device_used": "device use",
}

LEGEND = "GiB. `x` is the load of the rank's experts that was asked for."


BARS = (
    ("allocated peak, nine of ten", "peak_allocated", 0.03, nine_of_ten, False),
    ("allocated peak, worst", "peak_allocated", 0.06, max, False),
    ("its dynamic part, nine of ten", "dynamic", 0.10, nine_of_ten, False),
    ("reserved, nine of ten", "peak_reserved", 0.05, nine_of_ten, False),
    ("hot experts: allocated peak, worst", "peak_allocated", 0.05, max, True),
    ("hot experts: reserved, worst", "peak_reserved", 0.05, max, True),
)


def _bars() -> list[str]:
    """What was asked of the fresh ranks, and whether the lots keep to it."""
    lines = []
    for what, name, bar, of_all, is_of_hot in BARS:
        cells = [f"{what}: at most {bar:.0%}"]
        for lot in (first_look2(), first_look()):
            error = of_all(_off([rank for rank in lot if _is_hot(rank) >= is_of_hot], name))
            cells += [f"{error:.1%}, {'kept' if error <= bar else '**missed**'}"]
        lines.append(_line(cells))
    return lines


def _off(chosen: Iterable[MeasuredRank], name: str) -> list[float]:
    """Errors of the ranks of which this was measured."""
    return [abs(rank.error(name)) for rank in chosen if name in rank.pairs]


def design_page() -> list[str]:
    """The lines of the page about fresh ranks and those of the design."""
    number = len(ranks()) + len(fresh()) + len(fresh2())
    lines = [TEXT.format(number=number), _line(["ranks", "number", *SHOWN.values()])]
    lines.append(_line(["---"] * (2 + len(SHOWN))))
    for title, these, belongs in GROUPS:
        chosen = [rank for rank in these() if belongs(rank)]
        lines.append(_line([title, str(len(chosen)), *(_errors(chosen, name) for name in SHOWN)]))
    second, chosen_second = first_look2(), rows("fresh2.jsonl")
    numbers = {
        "bars": "\n".join(_bars()),
        "measured": len(second),
        "chosen": len(chosen_second),
        "crowded": sum(not rank.has_device_alone for rank in second),
    }
    lines += [CLEAN.format(**numbers), FIRST_LOT, LOOKED_AT.format(id="`glm4_moe-58`")]
    tables = {
        "Fresh ranks of the second lot, as predicted first": second,
        "Ranks with fused weight gradients, as predicted first": first_look_fused(),
        "Fresh ranks of the first lot, as predicted first": first_look(),
        "Ranks set aside, which were looked at": [rank for rank in ranks() if rank.row.set_aside],
        "Ranks that were fitted to": [rank for rank in ranks() if not rank.row.set_aside],
    }
    for title, chosen in tables.items():
        lines += ["", f"## {title}", "", LEGEND, "", *_table(chosen)]
    return lines


def _errors(chosen: list[MeasuredRank], name: str) -> str:
    errors = _off(chosen, name)
    number = f" ({len(errors)})" if len(errors) < len(chosen) else ""
    return f"{nine_of_ten(errors):.1%}, {max(errors):.1%}{number}"


def _table(chosen: Iterable[MeasuredRank]) -> list[str]:
    names = ("steady", "peak_allocated", "dynamic", "peak_reserved", "device_used")
    lines = [_line(["row", "layout", *(SHOWN[name] for name in names)])]
    lines.append(_line(["---"] * (2 + len(names))))
    for rank in sorted(chosen, key=lambda rank: rank.row.id):
        lines.append(_line([rank.row.id, _named(rank), *(_cell(rank, name) for name in names)]))
    return lines


def _cell(rank: MeasuredRank, name: str) -> str:
    if name not in rank.pairs:
        return ""
    predicted, measured = rank.pairs[name]
    error = round(rank.error(name), 3) + 0.0  # no -0.0
    return f"{predicted / GIB:.2f} / {measured / GIB:.2f} ({error:+.1%})"


def _named(rank: MeasuredRank) -> str:
    layout, flags = rank.layout, flags_of(rank.row)
    sizes = [
        f"{name}{getattr(layout, name)}"
        for name in ("tp", "cp", "pp", "vpp", "ep", "etp")
        if getattr(layout, name) > 1
    ]
    words = [
        f"{rank.row.world_size} GPUs",
        " ".join(sizes),
        f"{rank.row.stage} stage" if layout.pp > 1 else "",
        f"{layout.micro_batch_size} x {flags['max_length']}",
        str(layout.recompute),
        "LoRA" if flags["tuner_type"] == "lora" else "",
        f"x{rank.row.expert_load}" if _is_hot(rank) else "",
    ]
    return ", ".join(word for word in words if word)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
