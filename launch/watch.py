"""`moe-launch watch`: follows a run's log, and says in words when it strays from its plan."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.arguments import Folders
from launch.progress import Progress, planned_reserved, strays
from launch.training_log import Step, read_steps, since_last_start
from planner.command import write_output
from planner.errors import UsageError
from planner.plan import Reason
from planner.report.json_ import as_json as json_text
from planner.report.numbers import bar, gib, seconds
from planner.run import FORMAT_VERSION, Run, read_run

POLL_SECONDS = 1
LEAST_SILENCE_SECONDS = 60
BAR = 20
LARGE_LOSS = 1e6  # from here on digits after the point say nothing


@dataclass(slots=True)
class Log:
    """A file that grows: what is new since the last look, in whole lines."""

    path: Path
    _offset: int = 0
    _rest: bytes = b""
    _inode: int = 0

    def new_lines(self) -> list[str]:
        """Whole lines; none where the file is not there yet."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._offset:  # another file
                    self._inode, self._offset, self._rest = found.st_ino, 0, b""
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            self._offset, self._rest = 0, b""
            return []
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError("file.unreadable", path=self.path, reason=reason) from None
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]


@dataclass(slots=True)
class Watcher:
    """What was seen of a run so far."""

    run: Run
    log: Log
    steps: list[Step] = field(default_factory=list)
    last_news: float = 0.0

    def look(self, now: float) -> bool:
        """Whether there is a new step."""
        new = list(read_steps(self.log.new_lines()))
        self.steps = since_last_start([*self.steps, *new])
        if new:
            self.last_news = now
        return bool(new)

    @property
    def progress(self) -> Progress | None:
        """None before the first step."""
        return Progress(self.steps, self.run) if self.steps else None

    @property
    def is_done(self) -> bool:
        """Whether the last step was made."""
        return bool(self.steps) and self.steps[-1].iteration >= self.steps[-1].total

    def reasons(self, now: float, intervals: int) -> list[Reason]:
        """What is not as it should be, and that no step came for longer than so many take."""
        if self.progress is None:
            return []
        plan = self.run.plan
        step = self.progress.step_seconds or plan.step_seconds.get("total") or 0.0
        step *= int(plan.args.get("logging_steps", 1))
        found, quiet = strays(self.progress), now - self.last_news
        if not self.is_done and quiet > max(LEAST_SILENCE_SECONDS, intervals * step):
            found.append(Reason("watch.silent", {"quiet": quiet, "step": step}))
        return found


def log_path(run: Run, run_folder: Path) -> Path:
    """Where ms-swift writes its log, as this machine sees it."""
    return run_folder / Folders(run.site.workspace).output / "logging.jsonl"


def watch(run_folder: Path, *, once: bool, intervals: int, as_json: bool) -> None:
    """Follows a run until its last step; with `once`, says how far it is.

    Raises UsageError: those of `read_run`, file.unreadable.
    """
    run = read_run(run_folder)
    watcher = Watcher(run, Log(log_path(run, run_folder)), last_news=time.monotonic())
    watcher.look(time.monotonic())
    if as_json:
        write_output(json_text(to_json(watcher)))
        return
    said: set[str] = set()
    write_output(_line(watcher))
    while True:
        reasons = watcher.reasons(time.monotonic(), intervals)
        write_output(_sentences([reason for reason in reasons if reason.id not in said]))
        said = {reason.id for reason in reasons}  # what is over may be said again
        if once or watcher.is_done:
            return
        time.sleep(POLL_SECONDS)
        if watcher.look(time.monotonic()):
            write_output(_line(watcher))


def to_json(watcher: Watcher) -> dict[str, Any]:
    """The state of a run, in bytes and seconds; null before the first step."""
    progress, plan = watcher.progress, watcher.run.plan
    found: dict[str, Any] = {"format_version": FORMAT_VERSION, "log": str(watcher.log.path)}
    if progress is None:
        return {**found, "step": None, "plan": None, "strays": []}
    last = progress.last
    return {
        **found,
        "step": {
            "iteration": last.iteration,
            "total": last.total,
            "loss": _finite_or_none(last.loss),
            "grad_norm": _finite_or_none(last.grad_norm),
            "load_balancing_loss": _finite_or_none(last.load_balance),
            "reserved_bytes": last.memory_bytes,
            "seconds": progress.step_seconds,
            "tokens_per_second_per_gpu": progress.tokens_per_second_per_gpu,
        },
        "plan": {
            "reserved_bytes": planned_reserved(plan),
            "seconds": plan.step_seconds.get("total"),
            "tokens_per_second_per_gpu": plan.tokens_per_second_per_gpu,
        },
        "strays": [reason.to_json() | {"fix": reason.fix} for reason in strays(progress)],
    }


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None


def _line(watcher: Watcher) -> str:
    """The newest step."""
    if watcher.progress is None:
        path = watcher.log.path
        seen = path.parent.is_dir()
        hint = "" if seen else " (its folder is not here: not started, or not mounted here)"
        return f"no step yet in {path}{hint}; moe-launch status and logs say what the nodes do\n"
    return f"{step_line(watcher.progress)}\n"


def _sentences(reasons: list[Reason]) -> str:
    """What strays, and what helps."""
    return "".join(f"! {reason.message}\n  -> {reason.fix}\n" for reason in reasons)


def step_line(progress: Progress) -> str:
    """Step, loss, memory, speed, load and gradient norm, with the plan's beside them."""
    last, plan = progress.last, progress.run.plan
    share = last.iteration / max(1, last.total)
    parts = [f"{bar(share, BAR)} {last.iteration}/{last.total}"]
    if last.loss is not None:
        parts.append(f"loss {last.loss:{'.4f' if abs(last.loss) < LARGE_LOSS else '.3g'}}")
    if last.grad_norm is not None:
        parts.append(f"grad {last.grad_norm:.3g}")
    if last.load_balance is not None:
        parts.append(f"load {last.load_balance:.2f}")
    if last.memory_bytes is not None:
        planned = planned_reserved(plan)
        parts.append(f"{gib(last.memory_bytes)} GiB" + (f" ({gib(planned)})" if planned else ""))
    rate = progress.tokens_per_second_per_gpu
    if rate is not None and progress.step_seconds is not None:
        planned_rate = plan.tokens_per_second_per_gpu
        beside = f" ({planned_rate:.0f})" if planned_rate else ""
        parts.append(f"{seconds(progress.step_seconds)} s {rate:.0f} tok/s/GPU{beside}")
    if last.remaining:
        parts.append(f"{last.remaining} left")
    return "  ".join(parts)
