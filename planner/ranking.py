"""The order of layouts that fit: speed, then plainness, and that an interrupted run can go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from planner.candidates import ASSUMED_TIE_FRACTION, SAME_SECONDS, Candidate, Contenders

# A split of its own makes a layout no faster than by this part: 8 % was the most of 14 models and
# clusters. Layouts that are further behind keep the split that their grid shares with others.
ASSUMED_MOST_OF_A_SPLIT = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """`resuming` is the place, from 1, of the first that can go on after an interruption; None:
    none can, as far as is known."""

    candidates: list[Candidate]
    resuming: int | None


def rank(grids: Sequence[Contenders]) -> Ranking:
    """The best layout of each grid, by verdict and speed.

    Those that tie with the fastest come first: of them those that can go on after an interruption,
    then the plainest, as splitting sequences and layers costs what the time model does not know, so
    that a difference below its error does not pay for it. Where the first cannot go on, the fastest
    that can is ranked too, above all if it is tied with the first.
    """
    ranked = sorted(_best_of_each(grids), key=lambda candidate: candidate.order)
    if not ranked:
        return Ranking(candidates=[], resuming=None)
    fastest = ranked[0]
    limit = fastest.step_seconds * (1 + ASSUMED_TIE_FRACTION)
    tied = [
        candidate
        for candidate in ranked
        if candidate.verdict is fastest.verdict and candidate.step_seconds <= limit
    ]
    rest = [candidate for candidate in ranked if candidate not in tied]
    ranked = sorted(tied, key=_preference) + rest
    if ranked[0].resumes:
        return Ranking(candidates=ranked, resuming=1)
    found = _fastest_resuming([each for each in grids if each.verdict is fastest.verdict])
    if found is None:
        return Ranking(candidates=ranked, resuming=None)
    ranked = [candidate for candidate in ranked if not candidate.is_same(found)]
    place = 0
    if found.step_seconds > limit:
        later = (at for at in range(len(tied), len(ranked)) if found.order < ranked[at].order)
        place = next(later, len(ranked))
    return Ranking(candidates=[*ranked[:place], found, *ranked[place:]], resuming=place + 1)


def _best_of_each(grids: Sequence[Contenders]) -> list[Candidate]:
    """The best layout of each grid; those near the fastest of all have a split of their own."""
    found = [grid.best() for grid in grids]
    fastest = min(found, key=lambda candidate: candidate.order, default=None)
    near = fastest.step_seconds * (1 + ASSUMED_MOST_OF_A_SPLIT) if fastest else inf
    return [
        grid.improved(best) if best.step_seconds <= near else best
        for grid, best in zip(grids, found, strict=True)
    ]


def _preference(candidate: Candidate) -> tuple[object, ...]:
    return not candidate.resumes, candidate.plainness, candidate.order


def _fastest_resuming(grids: Sequence[Contenders]) -> Candidate | None:
    """The first in rank of all that can go on after an interruption."""
    best: Candidate | None = None
    limit = inf
    for grid in grids:
        found = grid.best_resuming(limit)
        if found is not None and (best is None or found.order < best.order):
            best, limit = found, found.step_seconds + SAME_SECONDS
    return best
