"""Splits of layers that are not alike: no single move of a layer to another stage betters them."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import Case, cases, problem, small

from planner.balance import balanced, moves_from
from planner.candidates import ASSUMED_TIE_FRACTION
from planner.evaluate import Evaluator
from planner.layout import Layout, PipelineSplit
from planner.problem import Problem
from planner.search import search
from planner.split import even_split

PROBLEMS = {
    "dense layers first": problem("DeepSeek-V3", gpus=256, global_batch_size=2048, seq_length=4096),
    "short of memory, MTP": small(
        "DeepSeek-V3", 5, memory_gib=130, global_batch_size=32, mtp_num_layers=1
    ),
    "short of memory": small("DeepSeek-V2-Lite", 9, memory_gib=30, global_batch_size=32),
    "few microbatches": small(
        "Moonlight-16B-A3B-Instruct", 13, memory_gib=40, global_batch_size=8, seq_length=4096
    ),
    "windows": small("gpt-oss-20b", 11, memory_gib=60, global_batch_size=32),
    "alike but for the ends": problem("Qwen3-30B-A3B", gpus=16, global_batch_size=64),
}
TOLERANCE = 1e-6


def moved(split: PipelineSplit) -> list[PipelineSplit]:
    """All splits with one layer in a neighbouring chunk, counted here."""
    stages = split.num_stages
    ends = [end for virtual in zip(*split.chunks, strict=True) for _, end in virtual]
    found = []
    for cut in range(len(ends) - 1):
        for by in (-1, 1):
            bounds = list(pairwise([0, *ends[:cut], ends[cut] + by, *ends[cut + 1 :]]))
            if all(first < end for first, end in bounds):
                found.append(PipelineSplit(tuple(tuple(bounds[s::stages]) for s in range(stages))))
    return found


def slowest(evaluator: Evaluator, layout: Layout) -> float:
    """Seconds of a step's passes on the slowest stage, as the schedule has them."""
    passes = evaluator.batch(layout).passes(layout.recompute)
    return max(passes.work(stage) for stage in range(layout.pp))


def step_seconds(evaluator: Evaluator, layout: Layout) -> float:
    return evaluator.batch(layout).step_seconds(layout.recompute)


def fit(evaluator: Evaluator, layout: Layout) -> tuple[int, bool]:
    """0 for what fits, then 1, then 2; and whether an interrupted run cannot go on."""
    batch = evaluator.batch(layout)
    return batch.verdict(layout.recompute).order, not batch.resumes(layout.recompute)


def better_moves(evaluator: Evaluator, layout: Layout) -> list[PipelineSplit]:
    """Single moves that make the slowest stage faster and nothing worse."""
    least, before = slowest(evaluator, layout), step_seconds(evaluator, layout)
    others = [replace(layout, split=split) for split in moved(layout.split)]
    return [
        other.split
        for other in others
        if slowest(evaluator, other) < least * (1 - 2 * TOLERANCE)
        and step_seconds(evaluator, other) <= before
        and fit(evaluator, other) <= fit(evaluator, layout)
    ]


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_single_move_makes_the_slowest_stage_of_what_is_ranked_faster(name: str) -> None:
    """With a split of their own, which those have already that are near the first."""
    evaluator = Evaluator(PROBLEMS[name])
    ranked = [each.layout(evaluator.problem) for each in search(evaluator).ranked]
    layouts = [
        balanced(evaluator, layout) for layout in ranked if layout.pp > 1 and layout.vpp == 1
    ]
    assert layouts
    for layout in layouts:
        assert better_moves(evaluator, layout) == [], layout


def test_dense_layers_are_spread_as_their_own_seconds_have_it() -> None:
    """Three dense layers take longer than two sparse ones: two of them and one beside a sparse."""
    evaluator = Evaluator(PROBLEMS["dense layers first"])
    layout = search(evaluator).ranked[0].layout(evaluator.problem)
    three = replace(layout, split=PipelineSplit((((0, 3),), ((3, 4),), *layout.split.chunks[2:])))

    assert [layout.split.chunks[stage] for stage in (0, 1)] == [((0, 2),), ((2, 4),)]
    assert step_seconds(evaluator, layout) < 0.95 * step_seconds(evaluator, three)


@given(cases())
def test_a_balanced_split_is_no_worse_and_holds_every_layer_once(case: Case) -> None:
    evaluator, layout = Evaluator(case.problem), case.layout
    found = balanced(evaluator, layout)
    chunks = [chunk for virtual in zip(*found.split.chunks, strict=True) for chunk in virtual]

    assert replace(found, split=layout.split) == layout
    assert [first for first, _ in chunks] == [0, *(end for _, end in chunks[:-1])]
    assert chunks[-1][1] == case.problem.model.num_layers
    assert all(first < end for first, end in chunks)
    assert fit(evaluator, found) <= fit(evaluator, layout)
    least = 1 if layout.vpp == 1 else 1 - ASSUMED_TIE_FRACTION
    assert least * step_seconds(evaluator, found) <= step_seconds(evaluator, layout) * (1 + 1e-5)
    assert balanced(evaluator, found) == found


@given(cases(), st.data())
def test_every_single_move_of_a_stage_is_looked_at(case: Case, data: st.DataObject) -> None:
    split = case.layout.split
    stage = data.draw(st.integers(0, split.num_stages - 1))
    of_it = [
        each
        for each in moved(split)
        if split.num_stages > 1 and each.num_layers(stage) < split.num_layers(stage)
    ]
    found = [each for each in moves_from(split, stage) if split.num_stages > 1]
    assert sorted(each.chunks for each in found) == sorted(each.chunks for each in of_it)


@given(cases())
def test_several_chunks_a_stage_are_even_for_what_is_not_told_apart(case: Case) -> None:
    evaluator, layout = Evaluator(case.problem), case.layout
    split = even_split(case.problem.model.num_layers, layout.pp, layout.vpp)
    found = balanced(evaluator, layout)
    if layout.vpp > 1 and split is not None and found.split != split:
        even = replace(layout, split=split)
        gain = 1 - step_seconds(evaluator, found) / step_seconds(evaluator, even)
        assert gain > ASSUMED_TIE_FRACTION or fit(evaluator, found) < fit(evaluator, even)


def test_a_split_that_was_set_stays() -> None:
    settings = ("decoder_first_pipeline_num_layers=2",)
    stated: Problem = problem("Qwen3-30B-A3B", gpus=8, settings=settings)
    evaluator = Evaluator(stated)
    split = evaluator.split(2, 1)
    assert split is not None
    layout = Layout(world_size=8, pp=2, ep=4, split=split, global_batch_size=16)

    assert [split.num_layers(stage) for stage in (0, 1)] == [2, 46]
    assert balanced(evaluator, layout) == layout
