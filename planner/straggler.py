"""What of a step is there because the ranks of a group of experts are not loaded alike."""

from dataclasses import replace
from functools import lru_cache

from planner.evaluate import Evaluator
from planner.layout import Layout


def straggler_seconds(evaluator: Evaluator, layout: Layout, total: float) -> float:
    """Seconds of a step, of `total`, that the busiest rank's surplus takes at the workload's
    routing imbalance: with all ranks alike the step is so much shorter.

    They are in compute, the exchange of experts and bubbles.
    """
    if layout.ep == 1 or evaluator.problem.workload.routing_imbalance <= 1:
        return 0.0
    even = _evenly_routed(evaluator).batch(layout).step_seconds(layout.recompute)
    return max(0.0, total - even)


@lru_cache(maxsize=1)
def _evenly_routed(evaluator: Evaluator) -> Evaluator:
    """The same problem with all ranks alike, kept for the plans of a search."""
    problem = evaluator.problem
    workload = replace(problem.workload, routing_imbalance=1.0)
    return Evaluator(replace(problem, workload=workload), evaluator.overlap)
