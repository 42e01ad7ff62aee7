"""Which layouts are tied with the first: those that the time model cannot tell from it.

A predicted step is off by what the errors of its parts add up to. Where whole steps were measured,
all parts have the error of steps; where only compute was, the rest has an assumed one. The errors
of two layouts are taken as independent, so that their difference is off by the root of the sum of
the squares. It is not less in the data: in 92 pairs of the ranks of benchmarks/memory whose compute
was measured (2026-11-24), each of one model, it was 26 % where one rank was within 19 %.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import erf, exp, hypot, pi, sqrt

from planner.candidates import ASSUMED_TIE_FRACTION, Candidate
from planner.cluster import Assumption
from planner.evaluate import Evaluator
from planner.layout import Layout
from planner.plan import Plan, Reason
from planner.planning import confidence
from planner.step_time import CATEGORIES

# What nine of ten predictions of communication and bubbles are within: nobody compared them with
# steps of several GPUs.
ASSUMED_UNMEASURED_ERROR = 0.3

_MEASURED_WITH_COMPUTE = ("compute", "optimizer", "other")  # of stages.compute_seconds

# Nine of ten errors of a normal distribution are within so many standard deviations.
_DEVIATIONS_OF_NINE_IN_TEN = 1.645

Profile = Mapping[str, float]  # seconds of a step by category


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A layout that is tied with the first; `number` is its place in the ranking, from 1."""

    number: int
    layout: Layout
    profile: Profile

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return sum(self.profile.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """The first of a ranking and those tied with it, in its order; which of them to try besides."""

    relative_error: float  # of the difference between two layouts like the first
    contenders: tuple[Contender, ...]
    second: Contender | None

    @property
    def first(self) -> Contender:
        """The first of the ranking."""
        return self.contenders[0]


def category_errors() -> dict[str, float]:
    """What nine of ten predictions of each category of a step are within, relative."""
    known = confidence()
    step, compute = known["step_seconds.total"], known["stages.compute_seconds"]
    if step is not None:
        return dict.fromkeys(CATEGORIES, step["relative_error_p90"])
    errors = dict.fromkeys(CATEGORIES, ASSUMED_UNMEASURED_ERROR)
    if compute is not None:
        errors |= dict.fromkeys(_MEASURED_WITH_COMPUTE, compute["relative_error_p90"])
    return errors


def error_assumptions() -> Iterator[Assumption]:
    """What ties rest on that nobody measured."""
    if confidence()["step_seconds.total"] is None:
        yield Assumption(
            id="ranking.unmeasured_error",
            value=ASSUMED_UNMEASURED_ERROR,
            unit="of communication and bubbles",
            source="never measured in steps of several GPUs; with the error of compute it decides "
            "which plans are tied",
        )


def find_ties(evaluator: Evaluator, ranked: Sequence[Candidate]) -> Ties:
    """The ties of a ranking that is not empty."""
    errors, first = category_errors(), ranked[0]
    most = max(errors.values())
    near = [
        _contender(evaluator, number, candidate)
        for number, candidate in enumerate(ranked, start=1)
        if candidate.verdict is first.verdict
        and _is_near(first.step_seconds, candidate.step_seconds, most)
    ]
    profiles = [each.profile for each in near]
    tied = tied_with_first(profiles, errors)
    second = second_to_try([profiles[index] for index in tied], errors)
    contenders = tuple(near[index] for index in tied)
    return Ties(
        relative_error=difference_error(profiles[0], profiles[0], errors)
        / contenders[0].step_seconds,
        contenders=contenders,
        second=None if second is None else contenders[second],
    )


def _is_near(first: float, other: float, error: float) -> bool:
    """Whether a profile may show a tie: what is further from the first than this is not tied."""
    bound = max(error * hypot(first, other), ASSUMED_TIE_FRACTION * max(first, other))
    return abs(other - first) <= bound * (1 + 1e-9)


def _contender(evaluator: Evaluator, number: int, candidate: Candidate) -> Contender:
    layout = candidate.layout(evaluator.problem)
    time = evaluator.batch(layout).step_time(layout.recompute)
    return Contender(number=number, layout=layout, profile=time.by_category())


def difference_error(one: Profile, other: Profile, errors: Mapping[str, float]) -> float:
    """Seconds that nine of ten differences between two steps are within."""

    def error(profile: Profile) -> float:
        return sum(errors[category] * seconds for category, seconds in profile.items())

    return hypot(error(one), error(other))


def tied_with_first(profiles: Sequence[Profile], errors: Mapping[str, float]) -> list[int]:
    """Indices of the profiles whose seconds differ from the first's by no more than the error of
    the difference, or by less than the search tells apart; the first is one of them."""
    first = profiles[0]
    total = sum(first.values())
    return [
        index
        for index, profile in enumerate(profiles)
        if abs(sum(profile.values()) - total)
        <= max(difference_error(first, profile, errors), ASSUMED_TIE_FRACTION * total)
    ]


def second_to_try(profiles: Sequence[Profile], errors: Mapping[str, float]) -> int | None:
    """The index of the profile from whose measurement most is to be expected beside the first's:
    the one that spends its time otherwise, at little cost. None: there is no other."""
    others = range(1, len(profiles))
    if not others:
        return None
    gains = {index: _gain(profiles[0], profiles[index], errors) for index in others}
    return max(others, key=lambda index: (round(gains[index], 9), -index))


def _gain(first: Profile, other: Profile, errors: Mapping[str, float]) -> float:
    """Seconds that measuring another layout is expected to win over the first (the expected
    improvement of Jones, Schonlau and Welch 1998, equation 15).

    Here the errors of a category are taken as common to both, as those of rates are: what both
    spend alike is no reason to try the other.
    """
    ahead = sum(first.values()) - sum(other.values())
    moved = (errors[name] * (other[name] - first[name]) for name in first)
    deviation = hypot(*moved) / _DEVIATIONS_OF_NINE_IN_TEN
    if deviation <= 0:
        return max(0.0, ahead)
    z = ahead / deviation
    chance = (1 + erf(z / sqrt(2))) / 2
    return ahead * chance + deviation * exp(-z * z / 2) / sqrt(2 * pi)


def with_ties(plan: Plan, ties: Ties) -> Plan:
    """The first plan with the reason to try another besides, before what limits it."""
    if ties.second is None:
        return plan
    values = {
        "others": len(ties.contenders) - 1,
        "percent": round(100 * ties.relative_error),
        "number": ties.second.number,
        "layout": str(ties.second.layout),
        "contrast": _contrast(ties.first.profile, ties.second.profile),
    }
    *found, limit = plan.reasons
    return replace(plan, reasons=[*found, Reason("reason.tied", values), limit])


def _contrast(first: Profile, other: Profile) -> str:
    """What another layout spends most more and most less on, in percent of the first's step."""
    total = sum(first.values())
    percents = {name: round(100 * (other[name] - first[name]) / total) for name in first}
    most, least = (chosen(percents, key=percents.__getitem__) for chosen in (max, min))
    parts = []
    if percents[most] > 0:
        parts.append(f"{percents[most]} % of the step more on {words_of(most)}")
    if percents[least] < 0:
        parts.append(f"{-percents[least]} % of the step less on {words_of(least)}")
    return " and ".join(parts) or "its time on the same"


def words_of(category: str) -> str:
    """The name of a category of step_seconds in words."""
    return category.removeprefix("exposed_").replace("_", " ")
