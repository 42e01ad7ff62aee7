"""A micro-batch on a pipeline: memory and seconds of a step, for every choice of recomputation."""

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from planner.layout import Recompute
from planner.memory import (
    StageMemory,
    device_used,
    level_bytes,
    reserved_bytes,
    resumed_bytes,
    saving_bytes,
    stage_memory,
)
from planner.parameters import RankParameters
from planner.schedule import Passes, Schedule, simulated_seconds
from planner.split_view import SplitView
from planner.stage_filling import fill, fill_schedule
from planner.step_time import StepTime
from planner.verdict import Verdict, verdict, worse

if TYPE_CHECKING:
    from planner.evaluate import GridBatch


class BatchView:
    """A micro-batch on a pipeline; answers for every choice of recomputation."""

    def __init__(self, batch: "GridBatch", split: SplitView, schedule: Schedule) -> None:
        self._batch, self._grid, self._split = batch, batch.grid, split
        self._layers, self._schedule = batch.layers, schedule
        self.num_microbatches, self.time = batch.num_microbatches, batch.time
        self._in_flight = schedule.in_flight
        self._usable = batch.grid.problem.cluster.gpu.memory_usable_bytes
        grid, chunks = batch.grid, schedule.num_virtual_stages
        self._nccl = grid.evaluator.nccl_bytes(grid.sizes, interleaved=chunks > 1)

    @property
    def host_verdict(self) -> Verdict:
        """The verdict on the memory of a node, whatever is recomputed."""
        return self._grid.host_verdict

    def verdict(self, recompute: Recompute, used: float | None = None) -> Verdict:
        """The verdict on GPUs and hosts; `used` is the device use, where it is known."""
        if used is None:
            used = self.device_used(recompute)
        return worse(verdict(used, self._usable), self.host_verdict)

    def resumes(self, recompute: Recompute) -> bool:
        """Whether an interrupted run can go on, as far as is known."""
        used = self.device_used(recompute, self._usable, resumed=True)
        return used <= self._usable and not self._grid.problem.recipe.no_save_optim

    def device_used(
        self, recompute: Recompute, limit: float = inf, *, resumed: bool = False
    ) -> float:
        """Device memory of the fullest stage, in bytes: what decides fit; of a run that was resumed
        or not. Where that is above a limit, of the first stage that is."""
        batch, nccl, most = self._batch, self._nccl, 0.0
        counts, chunks = self._split.counts(recompute), self._schedule.num_virtual_stages
        for stage in self._split.decisive:
            shape = batch.shapes[stage]
            kept, decided = batch.recomputed(stage, counts[stage], recompute, chunks)
            fill(shape, kept)
            fill_schedule(shape, kept, chunks, self._in_flight[stage])
            fullest, size = decided[0][0], 0.0
            for moment, so_far in decided:
                total = so_far + level_bytes(shape, "schedule", moment)
                if total > size:
                    fullest, size = moment, total
            reserved = reserved_bytes(shape, size, self._grid.static_bytes[stage][fullest])
            if shape.exported_bytes:  # else no stage is fullest between steps (tests hold it)
                saving = saving_bytes(shape, batch.decided_saving[stage])
                reserved = max(reserved, saving)
            if resumed:
                reserved += resumed_bytes(shape)
            used = device_used(reserved, nccl[stage])
            if used > most:
                most = used
                if most > limit:
                    break
        return most

    def memory(self, recompute: Recompute) -> list[StageMemory]:
        """Memory of every stage's worst rank, term by term."""
        batch, found, usable = self._batch, [], self._usable
        chunks = self._schedule.num_virtual_stages
        for stage, counts in enumerate(self._split.counts(recompute)):
            shape = decisive = batch.shapes[stage]
            if batch.skewed:
                shape = replace(decisive)
            for each in (shape, decisive):
                imbalanced = batch.skewed and each is decisive
                kept = self._layers.stage(counts, chunks, recompute, imbalanced=imbalanced)
                fill(each, kept)
                fill_schedule(each, kept, chunks, self._in_flight[stage])
            found.append(stage_memory(shape, decisive, nccl=self._nccl[stage], usable_bytes=usable))
        return found

    def parameters(self, stage: int) -> RankParameters:
        """Parameters of any rank of a stage."""
        return self._grid.shapes[stage].parameters

    def least_seconds(self, recompute: Recompute) -> float:
        """Seconds that a step takes at least, quickly known."""
        return self.time.least_seconds(self._split.counts(recompute), recompute)

    def passes(self, recompute: Recompute) -> Passes:
        """What the stages do in a step."""
        return self.time.passes(self._split, self._schedule, recompute)

    def step_seconds(self, recompute: Recompute) -> float:
        """Seconds of a step."""
        return simulated_seconds(self.passes(recompute))

    def step_time(self, recompute: Recompute) -> StepTime:
        """Seconds of a step, term by term."""
        return self.time.step_time(self._split, self._schedule, recompute)
