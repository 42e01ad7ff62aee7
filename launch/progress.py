"""How far training is and how it compares with its plan, from ms-swift's logging.jsonl."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from launch.training_log import Step, intervals
from planner.plan import Plan, Reason
from planner.run import Run
from planner.units import GIB

RECENT = 10  # steps that a step is compared with
# Where a run strays; memory has the band of the plan's own confidence, and this where it has none.
ASSUMED_MEMORY_BAND = 0.1
ASSUMED_TIME_BAND = 0.5  # step times of plans were never compared with real steps
ASSUMED_UNEVEN_LOAD = 2.0  # the auxiliary loss is 1 where all experts get as many tokens
ASSUMED_JUMP = 10.0  # of the gradient norm, over the recent median
ASSUMED_RISE = 1.5  # of the loss, the same


@dataclass(frozen=True, slots=True)
class Progress:
    """The steps since the last start, and what was planned."""

    steps: list[Step]
    run: Run

    @property
    def last(self) -> Step:
        """The newest step."""
        return self.steps[-1]

    @property
    def step_seconds(self) -> float | None:
        """The median of the recent steps; None before two are known."""
        seconds = [each.seconds for each in intervals(self.steps)][-RECENT:]
        return median(seconds) if seconds else None

    @property
    def tokens_per_second_per_gpu(self) -> float | None:
        """Of the recent steps, padding counted: packs are full."""
        seconds, args, layout = self.step_seconds, self.run.plan.args, self.run.plan.layout
        if not seconds:
            return None
        return float(args["max_length"] * layout.global_batch_size / seconds / layout.world_size)


Rule = Callable[[Progress], Iterator[Reason]]


def strays(progress: Progress) -> list[Reason]:
    """What is not as it should be, as sentences of `planner.messages`."""
    return [reason for rule in RULES for reason in rule(progress)]


def _finite(progress: Progress) -> Iterator[Reason]:
    for name in ("loss", "grad_norm"):
        value = getattr(progress.last, name)
        if value is not None and not math.isfinite(value):
            yield Reason("watch.not_finite", {"what": name, "value": str(value)})


def _memory(progress: Progress) -> Iterator[Reason]:
    planned, used = planned_reserved(progress.run.plan), progress.last.memory_bytes
    if planned is None or used is None:
        return
    band = _band(progress.run.plan, "stages.memory_bytes.peak_reserved", ASSUMED_MEMORY_BAND)
    if used > planned * (1 + band):
        values = {"used": used / GIB, "planned": planned / GIB, "band": 100 * band}
        yield Reason("watch.memory", values)


def _time(progress: Progress) -> Iterator[Reason]:
    planned, seconds = progress.run.plan.step_seconds.get("total"), progress.step_seconds
    if planned and seconds and seconds > planned * (1 + ASSUMED_TIME_BAND):
        yield Reason("watch.slow", {"seconds": seconds, "planned": planned})


def _routing(progress: Progress) -> Iterator[Reason]:
    load = progress.last.load_balance
    if load is not None and load > ASSUMED_UNEVEN_LOAD:
        yield Reason("watch.routing", {"load": load})


def _jumps(progress: Progress) -> Iterator[Reason]:
    for name, most in (("grad_norm", ASSUMED_JUMP), ("loss", ASSUMED_RISE)):
        before = [getattr(step, name) for step in progress.steps[:-1][-RECENT:]]
        known = [value for value in before if value is not None and math.isfinite(value)]
        now = getattr(progress.last, name)
        if len(known) == RECENT and now is not None and median(known) * most < now < math.inf:
            values = {"what": name, "now": now, "usual": median(known)}
            yield Reason("watch.jump", values)


RULES: tuple[Rule, ...] = (_finite, _memory, _time, _routing, _jumps)


def planned_reserved(plan: Plan) -> float | None:
    """Bytes that the plan lets the fullest rank reserve."""
    return max((stage.memory_bytes.get("peak_reserved", 0) for stage in plan.stages), default=None)


def _band(plan: Plan, path: str, assumed: float) -> float:
    """What nine in ten measured rows kept to, doubled: one in ten is no news."""
    confidence = plan.confidence.get(path) or {}
    return 2 * float(confidence.get("relative_error_p90", assumed / 2))
