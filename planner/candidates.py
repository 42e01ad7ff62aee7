"""Layouts that fit, and the best of those of a grid: rankings by simulated seconds, for little."""

from collections.abc import Callable
from dataclasses import replace
from heapq import heapify, heappop, heapreplace
from math import inf

from planner.batch_view import BatchView
from planner.layout import NO_RECOMPUTE, Layout, PipelineSplit, Recompute
from planner.problem import Problem, Sizes, as_layout
from planner.schedule import Passes, simulated_seconds
from planner.verdict import Verdict

# Step times closer than this are not told apart.
ASSUMED_TIE_FRACTION = 0.02

# Seconds that differ by less are the same, added up in another order.
_SAME_DIGITS = 9
SAME_SECONDS = 10.0**-_SAME_DIGITS


# Sizes with their split, a micro-batch size, recomputation, and the view that answers for them.
Choice = tuple[Sizes, int, Recompute, BatchView]


class Candidate:
    """A layout that fits, with what ranks it."""

    __slots__ = (
        "_batch",
        "_sizes",
        "micro_batch_size",
        "order",
        "plainness",
        "recompute",
        "step_seconds",
        "verdict",
    )

    def __init__(
        self,
        sizes: Sizes,
        micro_batch_size: int,
        recompute: Recompute,
        verdict: Verdict,
        step_seconds: float,
        batch: BatchView,
    ) -> None:
        self._batch = batch
        self._sizes, self.micro_batch_size, self.recompute = sizes, micro_batch_size, recompute
        self.verdict, self.step_seconds = verdict, step_seconds
        # What fits first, then speed, then the plainer layout, without recomputation if can be.
        self.plainness = (sizes.etp, sizes.cp, sizes.tp, sizes.vpp, sizes.pp, sizes.ep)
        self.order = (
            verdict.order,
            _rounded(step_seconds),
            self.plainness,
            micro_batch_size,
            (recompute != NO_RECOMPUTE, recompute.granularity, recompute.modules),
        )

    def with_split(self, split: PipelineSplit, batch: BatchView) -> "Candidate":
        """The same with another split of the layers, which a view answers for."""
        sizes, recompute = replace(self._sizes, split=split), self.recompute
        found, seconds = batch.verdict(recompute), batch.step_seconds(recompute)
        return Candidate(sizes, self.micro_batch_size, recompute, found, seconds, batch)

    @property
    def resumes(self) -> bool:
        """Whether it can go on after an interruption, as far as is known."""
        return self._batch.resumes(self.recompute)

    @property
    def grid(self) -> tuple[int, ...]:
        """The sizes that a grid is made of."""
        sizes = self._sizes
        return sizes.tp, sizes.cp, sizes.pp, sizes.ep, sizes.etp

    def is_same(self, other: "Candidate") -> bool:
        """Whether both are one layout."""
        return self._sizes == other._sizes and self.order == other.order

    def layout(self, problem: Problem) -> Layout:
        """The layout."""
        chosen = replace(
            self._sizes, micro_batch_size=self.micro_batch_size, recompute=self.recompute
        )
        return as_layout(problem, chosen)


def _with_least(choice: Choice) -> tuple[float, Choice]:
    _, _, recompute, batch = choice
    return batch.least_seconds(recompute), choice


def _rounded(step_seconds: float) -> float:
    return round(step_seconds, _SAME_DIGITS)


class Contenders:
    """Layouts of a grid that fit, of the best verdict so far. `improve` makes of one of them what
    is ranked, if it is near enough to the fastest of all grids."""

    def __init__(self, improve: Callable[[Candidate], Candidate]) -> None:
        self.improved = improve
        self._verdict = Verdict.EXCEEDS
        self._found: list[tuple[float, Choice]] = []  # with the least seconds of a step
        self._spare: list[Choice] = []  # slower than one with more memory

    @property
    def verdict(self) -> Verdict:
        """Of all that are kept."""
        return self._verdict

    def add(self, found: Verdict, choice: Choice, *, spare: bool) -> None:
        """Take in a layout, unless others fit better; `spare` ones for their smaller memory, where
        one that is faster fits."""
        if found.order < self._verdict.order:
            self._verdict, self._found, self._spare = found, [], []
        if found is not self._verdict:
            return
        if spare:
            self._spare.append(choice)
        else:
            self._found.append(_with_least(choice))

    def best(self) -> Candidate:
        """The first in rank of them, as it was found."""
        best = self._first(self._found, inf, lambda batch, recompute: True)
        assert best is not None
        return best

    def best_resuming(self, limit: float) -> Candidate | None:
        """The first in rank of those that can go on after an interruption; None: none does within
        so many seconds a step."""
        found = [*self._found, *map(_with_least, self._spare)]
        best = self._first(found, limit, lambda batch, recompute: batch.resumes(recompute))
        return None if best is None else self.improved(best)

    def _first(
        self,
        found: list[tuple[float, Choice]],
        limit: float,
        accepts: Callable[[BatchView, Recompute], bool],
    ) -> Candidate | None:
        """The first in rank: pipelines are simulated in the order of the least seconds, first the
        quick bound and then that of the schedule, until even those are more than the limit or than
        what the best one takes."""
        best: Candidate | None = None
        waiting: list[tuple[float, int, Passes | None]] = [
            (each[0], number, None) for number, each in enumerate(found)
        ]
        heapify(waiting)
        while waiting and waiting[0][0] <= limit:
            _, number, passes = waiting[0]
            sizes, size, recompute, batch = found[number][1]
            if passes is None:
                if not accepts(batch, recompute):
                    heappop(waiting)
                    continue
                passes = batch.passes(recompute)
                heapreplace(waiting, (passes.least_seconds(), number, passes))
                continue
            heappop(waiting)
            seconds = simulated_seconds(passes)
            candidate = Candidate(sizes, size, recompute, self._verdict, seconds, batch)
            if seconds <= limit and (best is None or candidate.order < best.order):
                best, limit = candidate, seconds + SAME_SECONDS
        return best
