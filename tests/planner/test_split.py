"""The pipeline split: as good as the best of all splits."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import MODELS, problem

from planner.evaluate import Evaluator
from planner.layout import PipelineSplit
from planner.split import SplitCosts, best_split, even_split, faster_exists, split_layers

whole = st.integers(0, 20).map(float)  # whole numbers: sums are exact in any order


@st.composite
def splittings(draw: st.DrawFn) -> tuple[SplitCosts, int, int]:
    """Costs of a few layers, and how many stages and chunks a stage they go to."""
    pp, vpp = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (2, 3)]))
    num_layers = draw(st.integers(pp * vpp, 9))
    per_layer = st.lists(whole, min_size=num_layers, max_size=num_layers).map(tuple)
    costs = SplitCosts(
        layer_seconds=draw(
            st.lists(whole.map(lambda x: x + 1), min_size=num_layers, max_size=num_layers).map(
                tuple
            )
        ),
        first_seconds=draw(whole),
        last_seconds=draw(whole),
        layer_static_bytes=draw(per_layer),
        layer_activation_bytes=draw(per_layer),
        first_bytes=draw(whole),
        last_bytes=draw(whole),
    )
    return costs, pp, vpp


def all_splits(num_layers: int, num_chunks: int) -> list[list[tuple[int, int]]]:
    """Every way to cut layers into chunks of at least one."""
    return [
        list(pairwise([0, *cuts, num_layers]))
        for cuts in combinations(range(1, num_layers), num_chunks - 1)
    ]


def slowest_and_next(
    costs: SplitCosts, pp: int, chunks: list[tuple[int, int]]
) -> tuple[float, float]:
    """Seconds of the slowest chunk, and bytes of the fullest one; of several chunks a stage the sum
    of the squares of their seconds."""
    seconds, filled = [], []
    for chunk, (first, end) in enumerate(chunks):
        in_flight = pp - chunk % pp
        ends = ((chunk == 0, 0), (chunk == len(chunks) - 1, 1))
        at_ends = [
            ((costs.first_seconds, costs.last_seconds)[i], (costs.first_bytes, costs.last_bytes)[i])
            for held, i in ends
            if held
        ]
        seconds.append(sum(costs.layer_seconds[first:end]) + sum(time for time, _ in at_ends))
        filled.append(
            sum(costs.layer_static_bytes[first:end])
            + in_flight * sum(costs.layer_activation_bytes[first:end])
            + sum(size for _, size in at_ends)
        )
    return max(seconds), sum(each**2 for each in seconds) if len(chunks) > pp else max(filled)


def in_order(split: PipelineSplit) -> list[tuple[int, int]]:
    """Chunks in the order of their layers: chunk c lies on stage c modulo the stages."""
    return [
        split.chunks[stage][virtual]
        for virtual in range(split.num_virtual_stages)
        for stage in range(split.num_stages)
    ]


@given(splittings())
def test_no_split_is_better(splitting: tuple[SplitCosts, int, int]) -> None:
    """Least slowest chunk first; of those splits, least fullest chunk, or most even."""
    costs, pp, vpp = splitting
    split = split_layers(costs, pp, vpp)
    assert split is not None
    num_layers = len(costs.layer_seconds)
    best = min(slowest_and_next(costs, pp, chunks) for chunks in all_splits(num_layers, pp * vpp))

    assert slowest_and_next(costs, pp, in_order(split)) == best


@given(splittings(), st.floats(0.1, 1.0), st.data())
def test_whether_a_faster_split_exists_is_what_the_best_one_says(
    splitting: tuple[SplitCosts, int, int], part: float, data: st.DataObject
) -> None:
    costs, pp, vpp = splitting
    every = all_splits(len(costs.layer_seconds), pp * vpp)
    chunks = data.draw(st.sampled_from(every))
    split = PipelineSplit(tuple(tuple(chunks[stage::pp]) for stage in range(pp)))
    limit = part * slowest_and_next(costs, pp, chunks)[0]
    best = min(slowest_and_next(costs, pp, each)[0] for each in every)

    if abs(limit - best) > 1e-9 * best:
        assert faster_exists(costs, split, part) == (best < limit)


@given(splittings())
def test_layers_that_divide_start_even_unless_that_is_slower(
    splitting: tuple[SplitCosts, int, int],
) -> None:
    costs, pp, vpp = splitting
    even, start = even_split(len(costs.layer_seconds), pp, vpp), best_split(costs, pp, vpp)
    if even is None:
        assert start == split_layers(costs, pp, vpp)
    elif start != even:
        slowest = [slowest_and_next(costs, pp, in_order(each))[0] for each in (start, even)]
        assert slowest[0] < 0.95 * slowest[1] * (1 + 1e-9)


@given(splittings())
def test_of_equal_splits_the_last_chunk_has_the_fewest_layers(
    splitting: tuple[SplitCosts, int, int],
) -> None:
    costs, pp, vpp = splitting
    split = split_layers(costs, pp, vpp)
    assert split is not None
    chosen = in_order(split)
    equal = [
        chunks
        for chunks in all_splits(len(costs.layer_seconds), pp * vpp)
        if slowest_and_next(costs, pp, chunks) == slowest_and_next(costs, pp, chosen)
    ]

    assert chosen[-1][0] == max(chunks[-1][0] for chunks in equal)


@given(splittings())
def test_a_split_holds_every_layer_once_and_no_chunk_is_empty(
    splitting: tuple[SplitCosts, int, int],
) -> None:
    costs, pp, vpp = splitting
    split = split_layers(costs, pp, vpp)
    assert split is not None
    bounds = in_order(split)

    assert (split.num_stages, split.num_virtual_stages) == (pp, vpp)
    assert [first for first, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == len(costs.layer_seconds)
    assert all(first < end for first, end in bounds)
    assert sum(split.num_layers(stage) for stage in range(pp)) == len(costs.layer_seconds)


@given(splittings())
def test_too_few_layers_have_no_split(splitting: tuple[SplitCosts, int, int]) -> None:
    costs, _, _ = splitting
    num_layers = len(costs.layer_seconds)

    assert split_layers(costs, num_layers + 1) is None
    assert split_layers(costs, num_layers) is not None


@given(st.integers(1, 100), st.integers(1, 16), st.integers(1, 4))
def test_an_even_split_gives_every_chunk_the_same(layers: int, pp: int, vpp: int) -> None:
    split = even_split(layers, pp, vpp)

    if layers % (pp * vpp):
        assert split is None
    else:
        assert split is not None
        assert {end - first for first, end in in_order(split)} == {layers // (pp * vpp)}
        assert in_order(split)[-1][1] == layers


def test_chunks_are_interleaved_over_the_stages() -> None:
    """Chunk c lies on stage c modulo the stages."""
    split = even_split(8, 2, 2)

    assert split is not None
    assert split.chunks == (((0, 2), (4, 6)), ((2, 4), (6, 8)))
    assert split.layer_ids(1) == ((2, 3), (6, 7))


@pytest.mark.parametrize("name", MODELS)
def test_the_split_of_a_model_is_never_slower_than_the_even_one(name: str) -> None:
    """The last stage has the output layer besides: it gets no more layers than others."""
    evaluator = Evaluator(problem(name))
    for pp in (2, 4, 7, 8):
        split = evaluator.split(pp, 1)
        assert split is not None
        sizes = [split.num_layers(stage) for stage in range(pp)]

        assert sum(sizes) == evaluator.problem.model.num_layers
        assert sizes[-1] <= max(sizes[:-1])
        assert max(sizes) <= -(-sum(sizes) // pp) + 2
