"""Matrices that look as if they were never loaded: drawn from the distribution that models start
from."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from convert.findings import Finding, doubt
from convert.values import Array

# In standard errors of an estimate from a sample; one in 15,000 samples is farther off.
STANDARD_ERRORS = 4.0
LEAST_ELEMENTS = 4096  # fewer numbers tell too little
# A model of which more matrices look so was never trained: it is said once, not of each.
MOST_OF_A_TRAINED_MODEL = 0.5


def can_tell(sample: Array) -> bool:
    """Whether numbers are enough to tell where they come from."""
    return len(sample) >= LEAST_ELEMENTS


def is_drawn(sample: Array, deviations: Iterable[float]) -> bool:
    """Whether numbers look drawn from a normal distribution of mean 0 and one of these deviations.

    The standard errors are those of a normal sample: of the mean s/sqrt(n), of the deviation
    s/sqrt(2n), of the kurtosis sqrt(24/n).
    """
    number = len(sample)
    if not can_tell(sample) or not np.isfinite(sample).all():
        return False
    values = sample.astype(np.float64)
    mean, deviation = float(values.mean()), float(values.std())
    if deviation == 0:
        return False
    centred = values - mean
    kurtosis = float((centred**4).mean()) / deviation**4
    rounding = 2**-9  # of bfloat16
    return (
        abs(mean) < STANDARD_ERRORS * deviation / math.sqrt(number)
        and abs(kurtosis - 3) < STANDARD_ERRORS * math.sqrt(24 / number)
        and any(
            abs(deviation / wanted - 1) < STANDARD_ERRORS / math.sqrt(2 * number) + rounding
            for wanted in deviations
        )
    )


def initial_deviations(config: dict[str, Any]) -> tuple[float, ...]:
    """The deviations that matrices of this model start with.

    All have initializer_range; megatron-core divides it by sqrt(2 layers) where a layer writes to
    the residual stream (0.16.1, megatron/core/utils.py: scaled_init_method_normal).
    """
    initial, layers = config.get("initializer_range"), config.get("num_hidden_layers")
    if not isinstance(initial, float) or initial <= 0 or not isinstance(layers, int) or layers < 1:
        return ()
    return initial, initial / math.sqrt(2 * layers)


def left_at_start(drawn: list[str], matrices: int) -> Iterator[Finding]:
    """The findings about matrices that look drawn, among all that were looked at."""
    if drawn and len(drawn) > MOST_OF_A_TRAINED_MODEL * matrices:
        yield doubt("never_trained", drawn=len(drawn), matrices=matrices)
    else:
        for name in drawn:
            yield doubt("at_start", tensor=name)
