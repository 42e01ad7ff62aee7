"""The split of a layout's layers over its stages, balanced by the layout's own seconds.

A search starts from splits that all grids of as many stages share. Layers of several kinds, the
embedding and the head weigh otherwise on each: with its sizes, micro-batch and recomputation.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from planner.candidates import ASSUMED_TIE_FRACTION
from planner.evaluate import Evaluator
from planner.layout import Layout, PipelineSplit
from planner.split import faster_exists, split_layers
from planner.split_costs import layout_costs
from planner.verdict import Verdict, verdict

# Stages, and steps, whose seconds differ by a smaller part are as fast.
_TOLERANCE = 1e-6


def balanced(evaluator: Evaluator, layout: Layout) -> Layout:
    """The layout with the split whose slowest stage is fastest; itself where that would fit worse.

    With one chunk a stage, all splits are weighed first by what layers cost. Then layers are moved
    one by one while that makes the slowest stage faster: of several chunks, where what a layer
    costs depends on the others, or where memory has no room for the best split.
    """
    if layout.pp == 1 or evaluator.problem.settings.names_split:
        return layout
    started = layout
    costs = layout_costs(evaluator, layout) if layout.vpp == 1 else None
    if costs and faster_exists(costs, layout.split, 1 - _TOLERANCE):
        solved = split_layers(costs, layout.pp, layout.vpp)
        assert solved is not None
        layout = _fastest(evaluator, layout, [solved])
    while True:
        moved = _fastest(evaluator, layout, _moves(evaluator, layout))
        if moved == layout:
            return layout if _pays(evaluator, layout, started) else started
        layout = moved


def _pays(evaluator: Evaluator, layout: Layout, started: Layout) -> bool:
    """Whether a split is worth it: several chunks a stage start even, as Megatron-Core has them
    unasked, and what the search does not tell apart is no reason for another split."""
    if layout.vpp == 1 or layout == started:
        return True
    seconds, before = (
        evaluator.batch(each).step_seconds(each.recompute) for each in (layout, started)
    )
    return seconds < (1 - ASSUMED_TIE_FRACTION) * before


def stage_seconds(evaluator: Evaluator, layout: Layout, split: PipelineSplit) -> list[float]:
    """Seconds of a microbatch on every stage of a layout if it had a split."""
    counts = evaluator.split_view(split).counts(layout.recompute)
    return evaluator.batch(layout).stage_seconds(counts, layout.recompute)


def single_moves(split: PipelineSplit) -> Iterator[PipelineSplit]:
    """The splits with one layer moved to the chunk before or after its own."""
    stages = split.num_stages
    chunks = [chunk for virtual in zip(*split.chunks, strict=True) for chunk in virtual]
    ends = [end for _, end in chunks]
    for cut in range(len(chunks) - 1):
        for end in (ends[cut] - 1, ends[cut] + 1):
            if chunks[cut][0] < end < chunks[cut + 1][1]:
                bounds = list(pairwise([0, *ends[:cut], end, *ends[cut + 1 :]]))
                yield PipelineSplit(tuple(tuple(bounds[stage::stages]) for stage in range(stages)))


def _moves(evaluator: Evaluator, layout: Layout) -> list[PipelineSplit]:
    """Single moves that make the slowest stage faster: of a layer that it holds."""
    seconds = stage_seconds(evaluator, layout, layout.split)
    most = max(seconds)
    if sum(each >= most * (1 - _TOLERANCE) for each in seconds) > 1:
        return []
    slowest = seconds.index(most)
    held = layout.split.num_layers(slowest)
    return [each for each in single_moves(layout.split) if each.num_layers(slowest) < held]


def _fastest(evaluator: Evaluator, layout: Layout, splits: Iterable[PipelineSplit]) -> Layout:
    """The layout with that of some splits whose slowest stage is fastest, if it is faster than the
    layout's own, the step no slower, and it fits as well."""
    best, least = layout, max(stage_seconds(evaluator, layout, layout.split))
    for split in splits:
        seconds = max(stage_seconds(evaluator, layout, split))
        if seconds < least * (1 - _TOLERANCE):
            other = replace(layout, split=split)
            if _is_as_good(evaluator, other, layout):
                best, least = other, seconds
    return best


def _is_as_good(evaluator: Evaluator, other: Layout, layout: Layout) -> bool:
    """Whether another split fits as well, and its step is no slower."""
    batches = [evaluator.batch(other), evaluator.batch(layout)]
    recompute = layout.recompute
    used, before = (batch.device_used(recompute) for batch in batches)
    usable = evaluator.problem.cluster.gpu.memory_usable_bytes
    found = verdict(used, usable)
    if found.order > verdict(before, usable).order or (found is Verdict.EXCEEDS and used > before):
        return False
    seconds, limit = (batch.step_seconds(recompute) for batch in batches)
    return seconds <= limit * (1 + _TOLERANCE)
