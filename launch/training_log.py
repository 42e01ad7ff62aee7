"""The steps of a training log: ms-swift's logging.jsonl or what it prints, and Megatron-LM's lines.

Formats:

- ms-swift 4.0 to 4.6, megatron/callbacks/print.py:56-76: JSON lines, and the same as Python prints
  it on the terminal. Speed is a mean since the start, with evaluating and saving in it; memory is
  the most that torch reserved on any rank of a model, since the start.
- ms-swift 3.12.6, megatron/trainers/base.py:914-998: JSON lines and Megatron's text. Seconds are a
  mean since the last line; memory is that of the last rank.
- Megatron-LM (megatron-core 0.18.1, megatron/training/training.py:2615-2700): text. Its clock
  stands still while a checkpoint is written or the model evaluated.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from planner.units import GIB, MILLI

LONGEST_LINE = 100_000  # characters; a step takes a few hundred
MOST_STEPS = 10**9  # more is no number of a step

_PRINTED = re.compile(r"\{'.*'iteration': '\d+/\d+'.*\}")
_MEGATRON = re.compile(r"\biteration +(\d+)/ *(\d+) \|(.*)")
_FIELD = re.compile(r" *([^:|]+): *([^|]*?) *\|")
# Names of a step's numbers: of JSON lines, then of Megatron's text.
_LOSS = ("loss", "lm loss")
_GRAD_NORM = ("grad_norm", "grad norm")
_LOAD = ("load_balancing_loss",)
_MEMORY = ("memory(GiB)",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the log; None where it does not say."""

    iteration: int
    total: int
    loss: float | None
    grad_norm: float | None
    load_balance: float | None
    memory_bytes: float | None
    mean_seconds: float | None  # a step, since the start
    own_seconds: float | None  # a step, since the line before, saving left out
    remaining: str


def read_steps(lines: Iterable[str]) -> Iterator[Step]:
    """The steps of a log; lines of something else, or cut short, are passed over."""
    for line in lines:
        row = _row(line[:LONGEST_LINE])
        if row is None:
            continue
        try:
            counted = row["iteration"] if "iteration" in row else row["global_step/max_steps"]
            iteration, total = map(int, str(counted).split("/"))
        except (ValueError, KeyError):
            continue
        if not 0 <= iteration <= MOST_STEPS:
            continue
        memory = _number(row, _MEMORY)
        milliseconds = _number(row, ("elapsed time per iteration (ms)",))
        yield Step(
            iteration=iteration,
            total=total,
            loss=_number(row, _LOSS),
            grad_norm=_number(row, _GRAD_NORM),
            load_balance=_number(row, _LOAD),
            memory_bytes=None if memory is None else memory * GIB,
            mean_seconds=_number(row, ("train_speed(s/it)",)),
            own_seconds=_number(row, ("elapsed_time_per_iteration",))
            if milliseconds is None
            else milliseconds * MILLI,
            remaining=str(row.get("remaining_time", row.get("remaining time", ""))),
        )


def _row(line: str) -> dict[str, Any] | None:
    """What a line says of a step; None for one that does not."""
    printed = _PRINTED.search(line)
    try:
        if printed:
            row = ast.literal_eval(printed[0])
        elif line.lstrip().startswith("{"):
            row = json.loads(line)
        else:
            return _megatron_row(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _megatron_row(line: str) -> dict[str, Any] | None:
    found = _MEGATRON.search(line)
    if found is None:
        return None
    row: dict[str, Any] = {"iteration": f"{found[1]}/{found[2]}"}
    for name, text in _FIELD.findall(found[3]):
        try:
            row[name] = float(text)
        except ValueError:
            row[name] = text
    return row


def _number(row: dict[str, Any], names: Iterable[str]) -> float | None:
    for name in names:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                return None
    return None


def since_last_start(steps: Iterable[Step]) -> list[Step]:
    """The steps after the last time that their number did not grow: a start goes back."""
    found: list[Step] = []
    for step in steps:
        if found and step.iteration <= found[-1].iteration:
            found = []
        found.append(step)
    return found


@dataclass(frozen=True, slots=True)
class Interval:
    """Steps between two lines of a log, and the mean of their seconds."""

    first: int  # number of the first step
    last: int
    seconds: float  # a step
    with_saving: bool  # whether the clock went on while checkpoints were written


def intervals(steps: list[Step]) -> Iterator[Interval]:
    """What each line but the first adds: seconds of the steps since the line before. The numbers of
    the steps grow, as `since_last_start` leaves them.

    The first step of a run is always logged; a start that goes on logs one interval later.
    """
    if len(steps) < 2:
        return
    first, second = steps[0].iteration, steps[1].iteration
    start = 0 if first == 1 else 2 * first - second
    for before, after in pairwise(steps):
        number = after.iteration - before.iteration
        began, ended = _elapsed(before, start), _elapsed(after, start)
        if after.own_seconds is not None:
            seconds, with_saving = after.own_seconds, False
        elif began is not None and ended is not None:
            seconds, with_saving = (ended - began) / number, True
        else:
            continue
        if 0 < seconds < float("inf"):
            yield Interval(before.iteration + 1, after.iteration, seconds, with_saving)


def _elapsed(step: Step, start: int) -> float | None:
    """Seconds since the start at a step; None where the log does not say."""
    return None if step.mean_seconds is None else step.mean_seconds * (step.iteration - start)
