"""The time of a micro-batch on a grid: what every stage and chunk takes, for any pipeline on it."""

from dataclasses import dataclass, field

from planner.communication import Exchanged
from planner.layer_seconds import PartSeconds
from planner.layer_view import LayerCounts, LayerSet
from planner.layout import Recompute
from planner.schedule import Passes, Schedule
from planner.split_view import SplitView, StageCounts
from planner.step_time import Once, Overlap, StageSeconds, StepTime, step_time

# Of the communication of layers, what is seen and what is hidden.
_CAUSES = Exchanged._fields


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTime:
    """Answers for every split and every choice of recomputation.

    `once` is by stage; `heads` is the compute of the output layer and loss, MTP's included;
    `embedding` that of the first stage.
    """

    layers: LayerSet
    num_microbatches: int
    once: list[Once]
    heads: PartSeconds
    embedding: PartSeconds
    batch: float  # of a pass of a chunk, before it
    message: float  # from a stage to the next one
    overlap: Overlap
    _least: dict[tuple[object, ...], float] = field(default_factory=dict)

    def least_seconds(self, counts: StageCounts, recompute: Recompute) -> float:
        """Seconds that a step takes at least, whatever the schedule: those of its slowest stage."""
        key = (counts, recompute.modules)
        found = self._least.get(key)
        if found is None:
            found = self._least[key] = self._slowest(counts, recompute)
        return found

    def _slowest(self, counts: StageCounts, recompute: Recompute) -> float:
        return max(
            self.num_microbatches * seconds + self.overlap.least(once)
            for seconds, once in zip(self.by_stage(counts, recompute), self.once, strict=True)
        )

    def by_stage(self, counts: StageCounts, recompute: Recompute) -> list[float]:
        """Seconds of a microbatch on every stage."""
        found = [
            self.batch + sum(self.layers.microbatch_seconds(layers, recompute)) for layers in counts
        ]
        found[0] += self.embedding.forward + self.embedding.backward
        found[-1] += self.heads.forward + self._head_backward(counts[-1], recompute)
        return found

    def _head_backward(self, counts: LayerCounts, recompute: Recompute) -> float:
        """Seconds of the heads' backward pass, less what the layers of their chunk wait for the
        host without them: while the heads run, the host is ahead."""
        heads = self.heads
        lead = heads.forward + heads.backward - heads.forward_launch - heads.backward_launch
        waiting = self.layers.waiting_seconds(counts, recompute)
        return heads.backward - min(max(0.0, lead), waiting)

    def passes(self, split: SplitView, schedule: Schedule, recompute: Recompute) -> Passes:
        """What the stages do in a step."""
        counts = split.chunks(recompute)
        chunks = [
            [self.layers.microbatch_seconds(each, recompute) for each in stage] for stage in counts
        ]
        forward = [[self.batch + seconds[0] for seconds in stage] for stage in chunks]
        backward = [[seconds[1] for seconds in stage] for stage in chunks]
        forward[0][0] += self.embedding.forward
        backward[0][0] += self.embedding.backward
        forward[-1][-1] += self.heads.forward
        backward[-1][-1] += self._head_backward(counts[-1][-1], recompute)
        around = [
            self.overlap.around(once, sum(forward[stage]), sum(backward[stage]), schedule, stage)
            for stage, once in enumerate(self.once)
        ]
        return Passes(
            schedule=schedule,
            forward=forward,
            backward=backward,
            message=self.message,
            ready=[each.ready for each in around],
            opening=[each.opening for each in around],
            after=[each.after for each in around],
        )

    def step_time(self, split: SplitView, schedule: Schedule, recompute: Recompute) -> StepTime:
        """Seconds of a step, term by term."""
        passes = self.passes(split, schedule, recompute)
        stages = [
            self._stage(split, stage, recompute, passes) for stage in range(schedule.num_stages)
        ]
        return step_time(stages, passes)

    def _stage(
        self, split: SplitView, stage: int, recompute: Recompute, passes: Passes
    ) -> StageSeconds:
        """Seconds of a stage by cause."""
        compute = 0.0
        exchanges = dict.fromkeys(_CAUSES, 0.0)
        for kind, full, count in split.layers(stage, recompute):
            view = self.layers.views[kind]
            layer, exchanged = view.seconds, view.communication(recompute, full=full)
            again = layer.recompute(recompute, full=full)
            compute += count * (layer.forward + layer.backward + again)
            for cause in _CAUSES:
                both = getattr(exchanged.forward, cause) + getattr(exchanged.backward, cause)
                exchanges[cause] += count * both
        compute += self.batch * len(passes.forward[stage])
        if stage == 0:
            compute += self.embedding.forward + self.embedding.backward
        if stage == passes.schedule.num_stages - 1:
            counts = split.chunks(recompute)[-1][-1]
            compute += self.heads.forward + self._head_backward(counts, recompute)
        forward, backward = sum(passes.forward[stage]), sum(passes.backward[stage])
        once = self.once[stage]
        reduce, gather = self.overlap.exposed(once, forward, backward, passes.schedule, stage)
        return StageSeconds(
            once=once,
            reduce=reduce,
            gather=gather,
            compute=compute,
            **exchanges,
        )
