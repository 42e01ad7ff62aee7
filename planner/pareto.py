"""The layouts that no other beats in throughput, memory and number of GPUs at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from planner.evaluate import Evaluator
from planner.layout import Layout
from planner.problem import Problem
from planner.search import search
from planner.verdict import verdict, worse

# A search keeps the fastest layout of every grid that fits. Those that need less are found by
# searching so many parts of a GPU's memory, from all of them down to one.
MEMORY_PARTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A layout that fits, by what is weighed against each other."""

    layout: Layout
    verdict: str
    tokens_per_second_per_gpu: float
    step_seconds: float
    device_used: int  # bytes of the fullest stage

    @property
    def costs(self) -> tuple[float, float, int]:
        """What is better the smaller it is; figures that differ by rounding are the same."""
        return (-float(f"{self.tokens_per_second_per_gpu:.9g}"), self.device_used, self.num_gpus)

    @property
    def num_gpus(self) -> int:
        """GPUs in all."""
        return self.layout.world_size


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether costs are nowhere worse and somewhere better than others."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def front(points: Iterable[Point]) -> list[Point]:
    """The points that none dominates, the fastest first; of those with equal costs the first."""
    distinct: dict[tuple[float, float, int], Point] = {}
    for point in points:
        distinct.setdefault(point.costs, point)
    members: list[tuple[float, float, int]] = []
    # What dominates a point comes before it in this order, and a member dominates what any does.
    for costs in sorted(distinct):
        if not any(dominates(member, costs) for member in members):
            members.append(costs)
    return [distinct[costs] for costs in members]


def pareto_front(problems: Sequence[Problem], tell: Callable[[str], None]) -> list[Point]:
    """The front of all layouts found for problems that differ in their number of GPUs."""
    return front(point for problem in problems for point in _points(problem, tell))


def _points(problem: Problem, tell: Callable[[str], None]) -> Iterator[Point]:
    """The fastest of every grid within every part of the memory."""
    gpu, workload = problem.cluster.gpu, problem.workload
    usable = gpu.memory_usable_bytes
    for parts in range(MEMORY_PARTS, 0, -1):
        limit = usable * parts // MEMORY_PARTS
        tell(f"{problem.cluster.num_gpus} GPUs, {parts}/{MEMORY_PARTS} of their memory")
        less = replace(problem.cluster, gpu=replace(gpu, memory_usable_bytes=limit))
        evaluator = Evaluator(replace(problem, cluster=less))
        found = search(evaluator).ranked
        if not found:
            return
        for candidate in found:
            layout = candidate.layout(problem)
            batch = evaluator.batch(layout)
            used = batch.device_used(layout.recompute)
            seconds = candidate.step_seconds
            yield Point(
                layout=layout,
                verdict=worse(verdict(used, usable), batch.host_verdict).value,
                tokens_per_second_per_gpu=workload.step_tokens / seconds / layout.world_size,
                step_seconds=seconds,
                device_used=round(used),
            )
