"""All that one log says: its steps, Megatron's timers and the first time that memory ran out."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from launch.training_log import LONGEST_LINE, Step, read_steps, since_last_start
from measure.calibrate.out_of_memory import OutOfMemory, Trace
from planner.errors import UsageError
from planner.units import MILLI

# megatron-core 0.16.1, megatron/core/timers.py:344-354: the largest of all ranks comes last.
_TIMER = re.compile(r"^ {4}([a-z][a-z0-9-]*) \.+: (?:\([\d.]+, ([\d.]+)\)|([\d.]+))\s*$")


@dataclass(slots=True)
class LogFile:
    """What was read of a log."""

    path: Path
    steps: list[Step] = field(default_factory=list)
    timers_seconds: dict[str, float] = field(default_factory=dict)  # medians, the slowest rank's
    out_of_memory: OutOfMemory | None = None


def read_log(path: Path) -> LogFile:
    """What a log says. Raises UsageError: file.unreadable, calibrate.no_steps."""
    log, timers = LogFile(path), dict[str, list[float]]()
    trace = Trace()
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = iter(lambda: file.readline(LONGEST_LINE), "")
            log.steps = since_last_start(read_steps(_watched(lines, trace, timers)))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise UsageError("file.unreadable", path=path, reason=reason) from None
    log.timers_seconds = {name: median(values) * MILLI for name, values in timers.items()}
    log.out_of_memory = trace.found
    if not log.steps and trace.found is None:
        raise UsageError("calibrate.no_steps", path=path)
    return log


def _watched(lines: Iterable[str], trace: Trace, timers: dict[str, list[float]]) -> Iterator[str]:
    """The lines, with an eye on what is no step."""
    for line in lines:
        trace.look(line)
        timer = _TIMER.match(line)
        if timer:
            timers.setdefault(timer[1], []).append(float(timer[2] or timer[3]))
        yield line
