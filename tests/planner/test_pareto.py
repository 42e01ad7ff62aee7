"""The Pareto front: nothing on it is dominated, and everything else is."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import small

from planner.evaluate import Evaluator
from planner.layout import Layout, PipelineSplit
from planner.pareto import Point, dominates, front, pareto_front
from planner.search import search

SPLIT = PipelineSplit((((0, 48),),))


@st.composite
def points(draw: st.DrawFn) -> Point:
    gpus = draw(st.sampled_from([1, 2, 4, 8]))
    speed = draw(st.integers(1, 6))
    return Point(
        layout=Layout(world_size=gpus, split=SPLIT, cp=draw(st.sampled_from([1, gpus]))),
        verdict="fits",
        tokens_per_second_per_gpu=float(speed),
        step_seconds=100.0 / speed,
        device_used=draw(st.integers(1, 6)),
    )


@settings(max_examples=50)
@given(st.lists(points(), min_size=1, max_size=30))
def test_no_member_is_dominated_and_whoever_is_no_member_is_dominated_or_equalled(
    given_points: list[Point],
) -> None:
    members = front(given_points)
    costs = [member.costs for member in members]
    assert members and len(costs) == len(set(costs)) and costs == sorted(costs)
    for point in given_points:
        dominated = any(dominates(each.costs, point.costs) for each in given_points)
        assert (point.costs in costs) is not dominated
        assert not dominated or any(dominates(member, point.costs) for member in costs)


@settings(max_examples=50)
@given(points(), points())
def test_of_two_at_most_one_dominates(one: Point, other: Point) -> None:
    assert not dominates(one.costs, one.costs)
    assert not (dominates(one.costs, other.costs) and dominates(other.costs, one.costs))


@settings(max_examples=50)
@given(st.lists(points(), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_the_order_of_the_points_changes_nothing_that_is_weighed(
    given_points: list[Point], random: st.randoms
) -> None:
    shuffled = list(given_points)
    random.shuffle(shuffled)
    assert [each.costs for each in front(shuffled)] == [each.costs for each in front(given_points)]


def test_the_front_of_a_problem_begins_with_its_fastest_and_costs_speed_for_memory() -> None:
    stated = small("Qwen3-30B-A3B", 4, gpus=4, memory_gib=30)
    found = pareto_front([stated], lambda _: None)
    evaluator = Evaluator(stated)
    ranked = search(evaluator).ranked
    speeds = [point.tokens_per_second_per_gpu for point in found]
    assert len(found) > 2
    assert found[0].step_seconds == pytest.approx(min(each.step_seconds for each in ranked))
    assert speeds == sorted(speeds, reverse=True)
    used = [point.device_used for point in found]
    assert used == sorted(used, reverse=True)
    for candidate in ranked:
        layout = candidate.layout(stated)
        memory = evaluator.batch(layout).device_used(layout.recompute)
        point = replace(
            found[0],
            layout=layout,
            tokens_per_second_per_gpu=stated.workload.step_tokens / candidate.step_seconds / 4,
            device_used=round(memory),
        )
        assert any(
            member.costs == point.costs or dominates(member.costs, point.costs) for member in found
        )


@pytest.mark.slow
def test_more_gpus_are_weighed_too() -> None:
    few, many = (small("Qwen2.5-7B", 4, gpus=gpus, recompute="full") for gpus in (2, 4))
    found = pareto_front([few, many], lambda _: None)
    assert {point.num_gpus for point in found} == {2, 4}
