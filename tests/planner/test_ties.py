"""Which layouts are tied with the first, and which of them is worth a try."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem

from planner.candidates import ASSUMED_TIE_FRACTION
from planner.evaluate import Evaluator
from planner.search import SearchResult, search
from planner.step_time import CATEGORIES
from planner.ties import (
    Profile,
    category_errors,
    difference_error,
    find_ties,
    second_to_try,
    tied_with_first,
    words_of,
)

SECONDS = st.floats(0, 100, allow_subnormal=False)
PROFILES = st.fixed_dictionaries(dict.fromkeys(CATEGORIES, SECONDS))
ERRORS = st.fixed_dictionaries(dict.fromkeys(CATEGORIES, st.floats(0, 0.5, allow_subnormal=False)))


def profile(**seconds: float) -> Profile:
    return {**dict.fromkeys(CATEGORIES, 0.0), **seconds}


@settings(max_examples=50)
@given(st.lists(PROFILES, min_size=1, max_size=8), ERRORS)
def test_the_tied_are_the_first_and_those_within_the_error_of_the_difference(
    profiles: list[Profile], errors: Profile
) -> None:
    tied = tied_with_first(profiles, errors)
    assert tied[0] == 0 and tied == sorted(set(tied))
    total = sum(profiles[0].values())
    for index, each in enumerate(profiles):
        apart = abs(sum(each.values()) - total)
        bound = max(difference_error(profiles[0], each, errors), ASSUMED_TIE_FRACTION * total)
        assert (index in tied) == (apart <= bound)


@settings(max_examples=50)
@given(st.lists(PROFILES, min_size=1, max_size=8), ERRORS, st.floats(1, 10))
def test_a_larger_error_unties_nothing(
    profiles: list[Profile], errors: Profile, factor: float
) -> None:
    more = {name: factor * error for name, error in errors.items()}
    assert set(tied_with_first(profiles, errors)) <= set(tied_with_first(profiles, more))


@settings(max_examples=50)
@given(st.lists(PROFILES, min_size=1, max_size=8), ERRORS)
def test_the_second_to_try_is_another_and_there_is_one_if_there_is_any(
    profiles: list[Profile], errors: Profile
) -> None:
    second = second_to_try(profiles, errors)
    assert second is None if len(profiles) == 1 else second in range(1, len(profiles))


def test_the_second_to_try_is_no_twin_of_the_first() -> None:
    errors = dict.fromkeys(CATEGORIES, 0.2)
    first = profile(compute=1.0, exposed_ep_communication=0.3)
    other = profile(compute=0.8, pipeline_bubble=0.52)
    assert second_to_try([first, dict(first), other], errors) == 2


def test_of_those_that_differ_alike_the_faster_is_tried() -> None:
    errors = dict.fromkeys(CATEGORIES, 0.2)
    first = profile(compute=1.0, exposed_ep_communication=0.3)
    slower, faster = (profile(compute=0.8, pipeline_bubble=size) for size in (0.6, 0.5))
    assert second_to_try([first, slower, faster], errors) == 2


def test_errors_are_of_every_category_and_come_from_what_was_measured() -> None:
    errors = category_errors()
    assert set(errors) == set(CATEGORIES)
    assert all(0 < error < 1 for error in errors.values())


@pytest.fixture(scope="module")
def found() -> tuple[Evaluator, SearchResult]:
    evaluator = Evaluator(problem(routing_imbalance=1.2))
    return evaluator, search(evaluator)


def test_ties_of_a_search_are_what_looking_at_every_plan_finds(
    found: tuple[Evaluator, SearchResult],
) -> None:
    evaluator, result = found
    ties, errors = find_ties(evaluator, result.ranked), category_errors()
    profiles, numbers = [], []
    for number, candidate in enumerate(result.ranked, start=1):
        layout = candidate.layout(evaluator.problem)
        if candidate.verdict is result.ranked[0].verdict:
            time = evaluator.batch(layout).step_time(layout.recompute)
            profiles.append(time.by_category())
            numbers.append(number)
    expected = [numbers[index] for index in tied_with_first(profiles, errors)]
    assert [each.number for each in ties.contenders] == expected
    assert 1 < len(expected) < len(result.ranked)
    assert ties.second in ties.contenders[1:]


@pytest.mark.parametrize("category", CATEGORIES)
def test_categories_have_names_that_people_read(category: str) -> None:
    assert "_" not in words_of(category)
