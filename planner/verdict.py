"""Whether a layout fits: predicted device use against what torch sees of the GPU."""

from enum import StrEnum

# The part of a GPU that stays free of a plan that "fits": the model's error was up to 1.5 % on the
# rows that were measured; routing imbalance, long runs and NCCL were not.
ASSUMED_MARGIN_FRACTION = 0.05


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
    return Verdict.TIGHT if fullness > 1 - ASSUMED_MARGIN_FRACTION else Verdict.FITS
