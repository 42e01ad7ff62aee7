"""The split of a layout's layers over its stages, balanced by the layout's own seconds.

A search starts from splits that all grids of as many stages share. Layers of several kinds, the
embedding and the head weigh otherwise on each: with its sizes, micro-batch and recomputation.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from planner.candidates import ASSUMED_TIE_FRACTION
from planner.evaluate import Evaluator
from planner.layout import Layout, PipelineSplit
from planner.split import even_split, faster_exists, split_layers
from planner.split_costs import layout_costs
from planner.verdict import Verdict

# Stages, and steps, whose seconds differ by a smaller part are as fast.
_TOLERANCE = 1e-6


def balanced(evaluator: Evaluator, layout: Layout, step_seconds: float | None = None) -> Layout:
    """The layout with the split whose slowest stage is fastest; itself where that would fit worse.
    `step_seconds` are those of its step, if they are known.

    With one chunk a stage, all splits are weighed first by what layers cost. Then layers are moved
    one by one while that makes the slowest stage faster: of several chunks, where what a layer
    costs depends on the others, or where memory has no room for the best split.

    Several chunks a stage stay even, as Megatron-Core has them unasked, unless another split makes
    the step faster by what a search tells apart, or the even one does not fit as well.
    """
    if layout.pp == 1 or evaluator.problem.settings.names_split:
        return layout
    judge = _Judge(evaluator, {} if step_seconds is None else {layout: step_seconds})
    if layout.vpp == 1:
        return _climbed(judge, _solved(judge, layout))
    split = even_split(evaluator.problem.model.num_layers, layout.pp, layout.vpp)
    if split is None:
        return _climbed(judge, layout)
    even = replace(layout, split=split)
    tops = [_climbed(judge, start) for start in dict.fromkeys((layout, even))]
    if all(top == even for top in tops):
        return even
    found = min(tops, key=lambda top: (judge.fit(top), judge.step_seconds(top)))
    faster = (1 - ASSUMED_TIE_FRACTION) * judge.step_seconds(even)
    worth_it = judge.fit(found) < judge.fit(even) or judge.step_seconds(found) < faster
    return found if worth_it else even


class _Judge:
    """What is asked of layouts more than once: device use in bytes, and seconds of a step."""

    def __init__(self, evaluator: Evaluator, step_seconds: dict[Layout, float]) -> None:
        self.evaluator = evaluator
        self._used: dict[Layout, float] = {}
        self._fit: dict[Layout, tuple[int, bool]] = {}
        self._seconds = step_seconds

    def used(self, layout: Layout) -> float:
        """Device use of the fullest stage."""
        if layout not in self._used:
            batch = self.evaluator.batch(layout)
            self._used[layout] = batch.device_used(layout.recompute)
        return self._used[layout]

    def fit(self, layout: Layout) -> tuple[int, bool]:
        """The order of the verdict, and whether an interrupted run can not go on."""
        if layout not in self._fit:
            batch, recompute = self.evaluator.batch(layout), layout.recompute
            found = batch.verdict(recompute, self.used(layout))
            self._fit[layout] = found.order, not batch.resumes(recompute)
        return self._fit[layout]

    def step_seconds(self, layout: Layout) -> float:
        """Of the schedule, simulated."""
        if layout not in self._seconds:
            batch = self.evaluator.batch(layout)
            self._seconds[layout] = batch.step_seconds(layout.recompute)
        return self._seconds[layout]

    def is_as_good(self, other: Layout, layout: Layout) -> bool:
        """Whether another split fits as well, or needs no more if neither fits, and its step is no
        slower."""
        fit = self.fit(other)
        if fit > self.fit(layout):
            return False
        if fit[0] == Verdict.EXCEEDS.order and self.used(other) > self.used(layout):
            return False
        return self.step_seconds(other) <= self.step_seconds(layout) * (1 + _TOLERANCE)


def _solved(judge: _Judge, layout: Layout) -> Layout:
    """The layout with the best split by what layers cost, if that is as good as its own."""
    costs = layout_costs(judge.evaluator, layout)
    if not faster_exists(costs, layout.split, 1 - _TOLERANCE):
        return layout
    split = split_layers(costs, layout.pp, layout.vpp)
    assert split is not None
    return _fastest(judge, layout, [split])


def _climbed(judge: _Judge, layout: Layout) -> Layout:
    """The layout after all single moves that make it faster."""
    while True:
        moved = _fastest(judge, layout, _moves(judge.evaluator, layout))
        if moved == layout:
            return layout
        layout = moved


def _stage_seconds(
    evaluator: Evaluator, layout: Layout, splits: Iterable[PipelineSplit]
) -> Iterator[list[float]]:
    """Seconds of a microbatch on every stage of a layout if it had one of some splits."""
    batch, recompute = evaluator.batch(layout), layout.recompute
    for split in splits:
        counts = evaluator.split_view(split).counts(recompute)
        yield batch.time.by_stage(counts, recompute)


def moves_from(split: PipelineSplit, stage: int) -> Iterator[PipelineSplit]:
    """The splits with one layer of a stage moved to the chunk before or after its own."""
    stages = split.num_stages
    chunks = [chunk for virtual in zip(*split.chunks, strict=True) for chunk in virtual]
    for chunk in range(stage, len(chunks), stages):
        first, end = chunks[chunk]
        if end - first == 1:
            continue
        for cut, at in ((chunk - 1, first + 1), (chunk, end - 1)):
            if 0 <= cut < len(chunks) - 1:
                bounds = list(chunks)
                bounds[cut] = (chunks[cut][0], at)
                bounds[cut + 1] = (at, chunks[cut + 1][1])
                yield PipelineSplit(tuple(tuple(bounds[each::stages]) for each in range(stages)))


def _moves(evaluator: Evaluator, layout: Layout) -> list[PipelineSplit]:
    """Single moves that make the slowest stage faster: of a layer that it holds."""
    (seconds,) = _stage_seconds(evaluator, layout, [layout.split])
    most = max(seconds)
    if sum(each >= most * (1 - _TOLERANCE) for each in seconds) > 1:
        return []
    return list(moves_from(layout.split, seconds.index(most)))


def _fastest(judge: _Judge, layout: Layout, splits: list[PipelineSplit]) -> Layout:
    """The layout with that of some splits whose slowest stage is fastest, if it is faster than the
    layout's own, the step no slower, and it fits as well."""
    if not splits:
        return layout
    before, *seconds = map(max, _stage_seconds(judge.evaluator, layout, [layout.split, *splits]))
    faster = [each for each in zip(seconds, splits, strict=True) if _is_less(each[0], before)]
    for _, split in sorted(faster, key=lambda each: each[0]):
        other = replace(layout, split=split)
        if judge.is_as_good(other, layout):
            return other
    return layout


def _is_less(seconds: float, before: float) -> bool:
    return seconds < before * (1 - _TOLERANCE)
