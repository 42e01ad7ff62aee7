"""Factors that move predictions to what was measured: bounded least squares of few of them.

A factor says how many times as long something takes as predicted (planner.cluster.Calibration).
What is minimised over the logarithms x of the factors, with i a log and k a factor, is

    sum_i (ln predicted_i(x) - ln measured_i)^2 / error_i^2 + sum_k (x_k - before_k)^2 / spread_k^2

so that a log moves the factors that it depends on most, and one that it says nothing of stays as it
was. Solved by Gauss-Newton steps with derivatives from the planner itself, cut to the bounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from measure.calibrate.prediction import FACTORS
from planner.cluster import Calibration

# How far a factor may be from 1 before a log is read, in logarithms: standard deviations. Kernels
# were measured on one GPU, launch times on one host; links are fits to published tables.
ASSUMED_SPREADS = {
    "gemm": 0.15,
    "memory": 0.15,
    "launch": 0.5,
    "nvlink": 0.3,
    "pcie": 0.4,
    "network": 0.4,
}
# What the model of a layout is wrong by though all factors are right.
ASSUMED_MODEL_ERROR = 0.02
LEAST, MOST = 0.25, 4.0  # of a factor; beyond it something else is wrong
STEPS = 12  # of Gauss-Newton at the most; it settles in three or four
SETTLED = 1e-5  # of a logarithm
_DIFFERENCE = 0.02  # of a logarithm, for derivatives
TOLD = 0.5  # a factor is told by the logs if they leave less of its spread than this

Predict = Callable[[Calibration], float]
Array = NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A measured step, and what predicts it in seconds under any calibration."""

    predict: Predict
    seconds: float
    relative_noise: float

    @property
    def error(self) -> float:
        """Standard deviation of the logarithm of the seconds."""
        return sqrt(ASSUMED_MODEL_ERROR**2 + self.relative_noise**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """One factor before and after, and how well it is known."""

    name: str
    before: float
    after: float
    low: float  # the bounds that it is within two times of three
    high: float
    told: bool  # whether the logs say anything of it
    at_bound: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """All factors that the predictions depend on, and the calibration with them."""

    calibration: Calibration
    factors: list[Factor]


def fit(observed: Sequence[Observed], before: Calibration) -> Fit:
    """The factors that fit all that was observed."""
    names = [name for name in FACTORS if _matters(name, observed, before)]
    prior = np.array([log(getattr(before, name)) for name in names])
    spread = np.array([ASSUMED_SPREADS[name] for name in names])
    low, high = np.minimum(log(LEAST), prior), np.maximum(log(MOST), prior)
    found: Array = prior
    covariance: Array = np.diag(spread**2)
    for _ in range(STEPS):
        at = found
        found, covariance = _step(observed, before, names, at, prior, spread)
        found = np.minimum(np.maximum(found, low), high)
        if np.all(np.abs(found - at) < SETTLED):
            break
    calibration = _calibration(before, names, found)
    deviations = np.sqrt(np.diag(covariance))
    factors = [
        Factor(
            name=name,
            before=float(np.exp(prior[place])),
            after=float(np.exp(found[place])),
            low=float(np.exp(found[place] - deviations[place])),
            high=float(np.exp(found[place] + deviations[place])),
            told=bool(deviations[place] < TOLD * spread[place]),
            at_bound=bool(found[place] in (low[place], high[place])),
        )
        for place, name in enumerate(names)
    ]
    return Fit(calibration=calibration, factors=factors)


def _matters(name: str, observed: Sequence[Observed], before: Calibration) -> bool:
    """Whether any prediction depends on a factor."""
    changed = replace(before, **{name: 2 * getattr(before, name)})
    return any(each.predict(changed) != each.predict(before) for each in observed)


def _step(
    observed: Sequence[Observed],
    before: Calibration,
    names: list[str],
    at: Array,
    prior: Array,
    spread: Array,
) -> tuple[Array, Array]:
    """The next point, and the covariance of the logarithms there."""
    predicted = _logarithms(observed, before, names, at)
    slopes = np.empty((len(observed), len(names)))
    for place in range(len(names)):
        there = at.copy()
        there[place] += _DIFFERENCE
        slopes[:, place] = (_logarithms(observed, before, names, there) - predicted) / _DIFFERENCE
    weights = np.array([1 / each.error**2 for each in observed])
    measured = np.array([log(each.seconds) for each in observed])
    precision = slopes.T @ (weights[:, None] * slopes) + np.diag(1 / spread**2)
    gradient = slopes.T @ (weights * (measured - predicted)) + (prior - at) / spread**2
    return at + np.linalg.solve(precision, gradient), np.linalg.inv(precision)


def _logarithms(
    observed: Sequence[Observed], before: Calibration, names: list[str], at: Array
) -> Array:
    calibration = _calibration(before, names, at)
    return np.array([log(each.predict(calibration)) for each in observed])


def _calibration(before: Calibration, names: list[str], at: Array) -> Calibration:
    return replace(before, **dict(zip(names, map(float, np.exp(at)), strict=True)))
