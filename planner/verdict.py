"""Whether a layout fits: predicted device use against what torch sees of the GPU, and the odds."""

from enum import StrEnum
from math import erf, sqrt

# What nine of ten predictions of device use were within, on ranks that nobody had looked at
# (stages.memory_bytes.device_used in data/confidence.yaml, rounded up). A plan "fits" with as much
# of a GPU to spare: that is 19 of 20 if errors of either sign are as likely.
MARGIN_FRACTION = 0.057

# Nine of ten errors of a normal distribution are within so many standard deviations.
_DEVIATIONS_OF_NINE_IN_TEN = 1.645

NEVER_MEASURED = (
    "NCCL of more than two ranks or over InfiniBand",
    "fragmentation over days",
    "the routing of trained models",
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


def verdict(device_used_bytes: float, usable_bytes: int) -> Verdict:
    """The verdict on the fullest stage."""
    fullness = device_used_bytes / usable_bytes
    if fullness > 1:
        return Verdict.EXCEEDS
    return Verdict.TIGHT if fullness * (1 + MARGIN_FRACTION) > 1 else Verdict.FITS


def odds_of_fitting(device_used_bytes: float, usable_bytes: int) -> float:
    """The probability, 0 to 1, that the fullest stage fits, if errors of device use are spread as
    they were on measured ranks: normally, nine of ten within the margin. What was never measured
    (NEVER_MEASURED) is not in it."""
    deviation = MARGIN_FRACTION / _DEVIATIONS_OF_NINE_IN_TEN
    spare = usable_bytes / device_used_bytes - 1
    return (1 + erf(spare / deviation / sqrt(2))) / 2
