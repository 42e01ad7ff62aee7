"""Which steps of a log are counted, which are dropped and why, and what one save costs."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median, quantiles

from launch.training_log import Interval, Step, intervals
from planner.errors import UsageError
from planner.plan import Reason

COLD_STEPS = 2  # kernels are compiled and groups connected in the first, states made in the second
SETTLED = (
    1.25  # a beginning is over with the first step below so many times the later half's median
)
LEAST_STEPS = 3  # of a median
TRUSTED_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a log measured of warm steps, in seconds and bytes."""

    step_seconds: float  # the median
    low_seconds: float  # the lowest and the highest tenth
    high_seconds: float
    counted: int  # lines that the median is of
    dropped: list[Reason]
    saving_seconds: float | None  # of one save; None: the log does not tell
    memory_bytes: float | None

    @property
    def relative_noise(self) -> float:
        """Standard error of the median over it, if steps are spread normally."""
        deviation = (self.high_seconds - self.low_seconds) / 2.56  # its tenths lie so far apart
        return float(1.25 * deviation / self.counted**0.5 / self.step_seconds)


def measured(steps: list[Step], *, save_steps: int, path: object) -> Measured:
    """The warm steps of a log. Raises UsageError: calibrate.too_few_steps."""
    every = list(intervals(steps))
    saves = [each for each in every if each.with_saving and _saves(each, save_steps)]
    plain = [each for each in every if each not in saves]
    warm = list(_warm(plain))
    if len(warm) < LEAST_STEPS:
        raise UsageError("calibrate.too_few_steps", path=path, counted=len(warm), least=LEAST_STEPS)
    seconds = sorted(each.seconds for each in warm)
    middle = median(seconds)
    tenths = quantiles(seconds, n=10, method="inclusive")
    logged = [step.memory_bytes for step in steps if step.memory_bytes]
    return Measured(
        step_seconds=middle,
        low_seconds=tenths[0],
        high_seconds=tenths[-1],
        counted=len(warm),
        dropped=list(_dropped(steps, plain, warm, saves)),
        saving_seconds=_saving(saves, middle),
        memory_bytes=max(logged, default=None),
    )


def _saves(interval: Interval, save_steps: int) -> bool:
    """Whether a checkpoint was written in between: after the line of a step, before the next one
    (ms-swift 4.6.0, megatron/trainers/base.py: run_train_step)."""
    before = interval.first - 1
    return before > 0 and (interval.last - 1) // save_steps > (before - 1) // save_steps


def _warm(plain: list[Interval]) -> Iterator[Interval]:
    """Intervals after the beginning."""
    late = [each for each in plain if each.first > COLD_STEPS]
    if not late:
        return
    usual = median(each.seconds for each in late[len(late) // 2 :])
    settled = False
    for each in late:
        settled = settled or each.seconds <= SETTLED * usual
        if settled:
            yield each


def _dropped(
    steps: list[Step], plain: list[Interval], warm: list[Interval], saves: list[Interval]
) -> Iterator[Reason]:
    first = warm[0].first
    yield Reason("calibrate.cold", {"first": steps[0].iteration, "last": first - 1})
    if saves:
        numbers = ", ".join(str(each.first - 1) for each in saves[:3])
        more = "" if len(saves) <= 3 else f" and {len(saves) - 3} more"
        yield Reason("calibrate.after_save", {"steps": numbers + more, "number": len(saves)})


def _saving(saves: list[Interval], step_seconds: float) -> float | None:
    """Seconds of one save beside the steps around it."""
    longer = [(each.seconds - step_seconds) * (each.last - each.first + 1) for each in saves]
    return max(0.0, median(longer)) if longer else None
