"""Whether a layout fits: predicted device use against what torch sees of the GPU, host memory
against what a node has, and the odds; and whether a run that was interrupted can go on."""

from enum import StrEnum
from math import erf, sqrt

# What nine of ten predictions of device use were within, on ranks that nobody had looked at
# (stages.memory_bytes.device_used in data/confidence.yaml, rounded up). A plan "fits" with as much
# of a GPU to spare: that is 19 of 20 if errors of either sign are as likely.
MARGIN_FRACTION = 0.055

# Nine of ten errors of a normal distribution are within so many standard deviations.
_DEVIATIONS_OF_NINE_IN_TEN = 1.645

NEVER_MEASURED = (
    "NCCL of more than two ranks or over InfiniBand",
    "fragmentation over days",
    "the routing of trained models",
    "host memory beyond two small runs",
)


class Verdict(StrEnum):
    """Fits with the margin, only without it, or not."""

    FITS = "fits"
    TIGHT = "tight"
    EXCEEDS = "exceeds"

    @property
    def order(self) -> int:
        """0 for what fits, then 1, then 2."""
        return _ORDER[self]


_ORDER = {verdict: number for number, verdict in enumerate(Verdict)}


class Resumes(StrEnum):
    """Whether a run can go on from a checkpoint: as far as is known, only if what was measured of
    one run does not hold for others, or not."""

    YES = "yes"
    MAYBE = "maybe"
    NO = "no"


def worse(one: Verdict, other: Verdict) -> Verdict:
    """The verdict on what both are about."""
    return max(one, other, key=lambda verdict: verdict.order)


def verdict(device_used_bytes: float, usable_bytes: int) -> Verdict:
    """The verdict on the fullest stage."""
    fullness = device_used_bytes / usable_bytes
    if fullness > 1:
        return Verdict.EXCEEDS
    return Verdict.TIGHT if fullness * (1 + MARGIN_FRACTION) > 1 else Verdict.FITS


def odds_of_fitting(device_used_bytes: float, usable_bytes: int) -> float:
    """The probability, 0 to 1, that the fullest stage fits, if errors of device use are spread as
    they were on measured ranks: normally, nine of ten within the margin. What was never measured
    (NEVER_MEASURED) is not in it, nor is the memory of its host."""
    deviation = MARGIN_FRACTION / _DEVIATIONS_OF_NINE_IN_TEN
    spare = usable_bytes / device_used_bytes - 1
    return (1 + erf(spare / deviation / sqrt(2))) / 2


def host_verdict(needed_bytes: float, has_bytes: int, *, assumed: bool) -> Verdict:
    """The verdict on the memory of a node. What nobody knows the node to have cannot be exceeded
    for sure: then it is tight."""
    if needed_bytes <= has_bytes:
        return Verdict.FITS
    return Verdict.TIGHT if assumed else Verdict.EXCEEDS
