"""Fits three numbers to the published runs of the bar, and to those without each model.

    make pages

writes published_fit.yaml. The numbers are factors of calibration, as a topology file may carry:
of kernels (matrix products and memory traffic alike), and of launches, one for the dispatchers of
plain collectives and one for DeepEP and HybridEP, which launch fewer kernels; communication is as
modelled. They are the ones of least mean absolute logarithm of predicted over measured seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import yaml
from published_runs import Run, bar_runs, step_time

from planner.cluster import Calibration
from planner.problem import Problem

FILE = Path(__file__).with_suffix(".yaml")
STEPS = (0.4, 0.2, 0.1, 0.05, 0.02)  # of the natural logarithm of a factor
DIGITS = 3
LEAST, MOST = 0.05, 20.0  # what a topology file may say

HEAD = (
    "# Written by published_fit.py: factors of what is predicted, fitted to the runs of the bar.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The three numbers."""

    kernels: float = 1.0
    launch: float = 1.0
    flex_launch: float = 1.0

    def calibration(self, run: Run) -> Calibration:
        """The same, as the planner takes them."""
        return Calibration(
            gemm=self.kernels,
            memory=self.kernels,
            launch=self.flex_launch if run.facts.get("dispatcher") in FLEX else self.launch,
        )


NAMES = ("kernels", "launch", "flex_launch")
FLEX = ("deepep", "hybridep")
AS_MODELLED = Factors()


def predicted_seconds(run: Run, factors: Factors, problem: Problem | None = None) -> float:
    """Seconds of a run's step with these factors; `problem` is not its own where it is given."""
    problem = problem or run.problem
    cluster = replace(problem.cluster, calibration=factors.calibration(run))
    return step_time(run, replace(problem, cluster=cluster)).total


class Fit:
    """Looks for the best factors of some of the runs; each place is predicted for all of them."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = list(runs)
        self._errors: dict[Factors, dict[str, float]] = {}

    def best(self, runs: Sequence[Run]) -> Factors:
        """The best factors of these runs: down along each number in turn, in ever smaller steps."""
        best = AS_MODELLED
        for step in STEPS:
            moved = True
            while moved:
                moved = False
                for near in self.around(best, step):
                    if self.error(near, runs) < self.error(best, runs):
                        best, moved = near, True
        return best

    def error(self, factors: Factors, runs: Sequence[Run]) -> float:
        """The mean absolute logarithm of predicted over measured seconds."""
        if factors not in self._errors:
            self._errors[factors] = {
                run.id: abs(math.log(predicted_seconds(run, factors) / run.measured_seconds))
                for run in self._runs
            }
        errors = self._errors[factors]
        return fmean(errors[run.id] for run in runs)

    def around(self, factors: Factors, step: float) -> list[Factors]:
        """The factors a step away."""
        moved = [
            (name, round(getattr(factors, name) * math.exp(change), DIGITS))
            for name in NAMES
            for change in (step, -step)
        ]
        return [replace(factors, **{n: value}) for n, value in moved if LEAST <= value <= MOST]


def without(runs: Sequence[Run], model: str) -> list[Run]:
    """The runs of other models."""
    return [run for run in runs if run.model.name != model]


def fitted() -> dict[str, Factors]:
    """What was fitted: to all runs, by "all", and without a model, by its name."""
    numbers = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: Factors(**factors) for name, factors in numbers.items()}


def main() -> None:
    """Fit and write."""
    runs = bar_runs()
    fit = Fit(runs)
    found = {"all": fit.best(runs)}
    for model in sorted({run.model.name for run in runs}):
        found[model] = fit.best(without(runs, model))
    lines = [
        f"{name}: {{{', '.join(f'{each}: {getattr(factors, each)}' for each in NAMES)}}}\n"
        for name, factors in found.items()
    ]
    FILE.write_text(HEAD + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
