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
from planner.split import even_split, faster_exists, split_layers
from planner.split_costs import layout_costs
from planner.verdict import Verdict, verdict

# Stages, and steps, whose seconds differ by a smaller part are as fast.
_TOLERANCE = 1e-6


def balanced(evaluator: Evaluator, layout: Layout) -> Layout:
    """The layout with the split whose slowest stage is fastest; itself where that would fit worse.

    With one chunk a stage, all splits are weighed first by what layers cost. Then layers are moved
    one by one while that makes the slowest stage faster: of several chunks, where what a layer
    costs depends on the others, or where memory has no room for the best split.

    Several chunks a stage stay even, as Megatron-Core has them unasked, unless another split makes
    the step faster by what a search tells apart, or the even one does not fit as well.
    """
    if layout.pp == 1 or evaluator.problem.settings.names_split:
        return layout
    if layout.vpp == 1:
        return _climbed(evaluator, _solved(evaluator, layout))
    found = _climbed(evaluator, layout)
    split = even_split(evaluator.problem.model.num_layers, layout.pp, layout.vpp)
    if split is None:
        return found
    even = replace(layout, split=split)
    from_even = found if layout == even else _climbed(evaluator, even)
    found = min(found, from_even, key=lambda each: _order(evaluator, each))
    order, order_of_even = _order(evaluator, found), _order(evaluator, even)
    faster = order[1] < (1 - ASSUMED_TIE_FRACTION) * order_of_even[1]
    return found if order[0] < order_of_even[0] or faster else even


def _solved(evaluator: Evaluator, layout: Layout) -> Layout:
    """The layout with the best split by what layers cost, if that is as good as its own."""
    costs = layout_costs(evaluator, layout)
    if not faster_exists(costs, layout.split, 1 - _TOLERANCE):
        return layout
    split = split_layers(costs, layout.pp, layout.vpp)
    assert split is not None
    return _fastest(evaluator, layout, [split])


def _climbed(evaluator: Evaluator, layout: Layout) -> Layout:
    """The layout after all single moves that make it faster."""
    while True:
        moved = _fastest(evaluator, layout, _moves(evaluator, layout))
        if moved == layout:
            return layout
        layout = moved


def _order(evaluator: Evaluator, layout: Layout) -> tuple[int, float]:
    """How well a layout fits, and seconds of a step."""
    batch, recompute = evaluator.batch(layout), layout.recompute
    usable = evaluator.problem.cluster.gpu.memory_usable_bytes
    fit = verdict(batch.device_used(recompute), usable)
    return fit.order, batch.step_seconds(recompute)


def _stage_seconds(
    evaluator: Evaluator, layout: Layout, splits: Iterable[PipelineSplit]
) -> Iterator[list[float]]:
    """Seconds of a microbatch on every stage of a layout if it had one of some splits."""
    batch, recompute = evaluator.batch(layout), layout.recompute
    for split in splits:
        counts = evaluator.split_view(split).counts(recompute)
        yield batch.stage_seconds(counts, recompute)


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
    (seconds,) = _stage_seconds(evaluator, layout, [layout.split])
    most = max(seconds)
    if sum(each >= most * (1 - _TOLERANCE) for each in seconds) > 1:
        return []
    slowest = seconds.index(most)
    held = layout.split.num_layers(slowest)
    return [each for each in single_moves(layout.split) if each.num_layers(slowest) < held]


def _fastest(evaluator: Evaluator, layout: Layout, splits: list[PipelineSplit]) -> Layout:
    """The layout with that of some splits whose slowest stage is fastest, if it is faster than the
    layout's own, the step no slower, and it fits as well."""
    before, *seconds = map(max, _stage_seconds(evaluator, layout, [layout.split, *splits]))
    best, least = layout, before
    for split, slowest in zip(splits, seconds, strict=True):
        if slowest < least * (1 - _TOLERANCE):
            other = replace(layout, split=split)
            if _is_as_good(evaluator, other, layout):
                best, least = other, slowest
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
