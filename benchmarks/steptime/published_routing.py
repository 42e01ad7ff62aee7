"""How uneven natural routing is, by pairs of published runs that differ in nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from published_errors import configuration
from published_fit import Factors, predicted_seconds
from published_runs import Run

MOST = 4.0  # times the mean load
STEPS = 20  # halvings


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A run with forced balance and one with natural routing; their measured seconds are the only
    thing that is used of them."""

    forced: Run
    natural: Run

    @property
    def slower(self) -> float:
        """Measured seconds of natural routing over those of forced balance."""
        return self.natural.measured_seconds / self.forced.measured_seconds

    def imbalance(self, factors: Factors) -> float:
        """The busiest rank's load over the mean at which the model says the same."""
        balanced = predicted_seconds(self.forced, factors)
        low, high = 1.0, MOST
        for _ in range(STEPS):
            middle = (low + high) / 2
            workload = replace(self.forced.problem.workload, routing_imbalance=middle)
            uneven = replace(self.forced.problem, workload=workload)
            if predicted_seconds(self.forced, factors, uneven) / balanced < self.slower:
                low = middle
            else:
                high = middle
        return low


def pairs(runs: Sequence[Run]) -> list[Pair]:
    """All pairs of runs that differ in routing only."""
    found: dict[object, dict[str, Run]] = {}
    for run in runs:
        facts = {k: v for k, v in configuration(run).items() if k != "routing"}
        key = (run.model.name, tuple(sorted((k, str(v)) for k, v in facts.items())))
        found.setdefault(key, {}).setdefault(str(run.facts.get("routing")), run)
    return [
        Pair(forced=pair["forced"], natural=pair["natural"])
        for pair in found.values()
        if pair.keys() >= {"forced", "natural"}
    ]
