"""A pipeline split as evaluation sees it: how many layers of which kind every stage holds."""

from collections import Counter
from collections.abc import Iterable

from planner.layer_view import LayerCounts
from planner.layout import NO_RECOMPUTE, PipelineSplit, Recompute
from planner.model_spec import LayerKind
from planner.problem import Problem
from planner.schedule import Schedule

StageCounts = tuple[LayerCounts, ...]
ChunkCounts = tuple[tuple[LayerCounts, ...], ...]  # by stage and chunk


def _whole(recompute: Recompute) -> tuple[bool, int | None]:
    """Whether layers are recomputed as a whole, and how many of a chunk if not all."""
    block = recompute.num_layers if recompute.method == "block" else None
    return recompute.granularity == "full", block


class SplitView:
    """A pipeline split: how many layers of each kind the stages hold, MTP's included."""

    def __init__(self, problem: Problem, split: PipelineSplit) -> None:
        self.split = split
        self._kinds, self._mtp_kind = problem.model.layer_kinds, problem.model.mtp_kind
        self._mtp_num_layers = problem.workload.mtp_num_layers
        self._last = (split.num_stages - 1, split.num_virtual_stages - 1)
        self._counts: dict[tuple[bool, int | None], StageCounts] = {}
        self._chunks: dict[tuple[bool, int | None], ChunkCounts] = {}
        self._group = problem.settings.microbatch_group_size_per_vp_stage or split.num_stages
        self._schedules: dict[int, Schedule] = {}
        self.layers_by_stage = self.counts(NO_RECOMPUTE)
        last = split.num_stages - 1
        kinds = [
            (stage == 0, stage == last, layers) for stage, layers in enumerate(self.layers_by_stage)
        ]
        # The first stage that is like each one, in its layers and in what is at an end.
        self.like = [kinds.index(each) for each in kinds]
        self.unlike = sorted(set(self.like))
        self.decisive = self._decisive_stages()

    def layers(self, stage: int, recompute: Recompute) -> LayerCounts:
        """Layers of a stage under a choice of recomputation."""
        return self.counts(recompute)[stage]

    def counts(self, recompute: Recompute) -> StageCounts:
        """Layers of every stage under a choice of recomputation."""
        whole, block = _whole(recompute)
        found = self._counts.get((whole, block))
        if found is None:
            chunks = range(self.split.num_virtual_stages)
            stages = range(self.split.num_stages)
            found = tuple(self._count(stage, chunks, whole, block) for stage in stages)
            self._counts[whole, block] = found
        return found

    def chunks(self, recompute: Recompute) -> ChunkCounts:
        """Layers of every chunk of every stage under a choice of recomputation."""
        whole, block = _whole(recompute)
        found = self._chunks.get((whole, block))
        if found is None:
            found = tuple(
                tuple(
                    self._count(stage, (chunk,), whole, block)
                    for chunk in range(self.split.num_virtual_stages)
                )
                for stage in range(self.split.num_stages)
            )
            self._chunks[whole, block] = found
        return found

    def schedule(self, num_microbatches: int) -> Schedule:
        """The schedule of so many microbatches."""
        found = self._schedules.get(num_microbatches)
        if found is None:
            found = self._schedules[num_microbatches] = Schedule(
                num_stages=self.split.num_stages,
                num_virtual_stages=self.split.num_virtual_stages,
                num_microbatches=num_microbatches,
                group=self._group,
            )
        return found

    def _count(
        self, stage: int, chunks: Iterable[int], whole: bool, block: int | None
    ) -> LayerCounts:
        """Layers of some chunks of a stage; those of MTP are on the last of all chunks."""
        found: Counter[tuple[LayerKind, bool]] = Counter()
        for chunk in chunks:
            first, end = self.split.chunks[stage][chunk]
            recomputed = (end if block is None else min(end, first + block)) if whole else first
            for layer in range(first, end):
                found[self._kinds[layer], layer < recomputed] += 1
            if self._mtp_num_layers and (stage, chunk) == self._last:
                found[self._mtp_kind, whole] += self._mtp_num_layers
        return tuple((kind, full, count) for (kind, full), count in found.items())

    def _decisive_stages(self) -> tuple[int, ...]:
        """Stages that can be the fullest: the first of those with as many layers of each kind.

        Of stages with the same layers, an earlier one keeps more microbatches in flight. With
        block recomputation the chunks must be alike too.
        """
        first_of: dict[object, int] = {}
        last = self.split.num_stages - 1
        for stage, chunks in enumerate(self.split.chunks):
            kinds = tuple(self._kinds[first:end] for first, end in chunks)
            first_of.setdefault((stage == 0, stage == last, kinds), stage)
        return tuple(first_of.values())
