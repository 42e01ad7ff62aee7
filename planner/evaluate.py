"""Evaluate layouts: memory of every stage and seconds of a step.

From the outside in, as a search goes: an `Evaluator` serves a problem, a `PipelineView` a grid with
its split, a `BatchView` a micro-batch on it; that one answers for every choice of recomputation.
Each level keeps what it decides, so that thousands of layouts a second go through the same terms
that a single one does.
"""

from dataclasses import dataclass, replace

from planner.batch_view import BatchView
from planner.communication import Communication
from planner.communicators import nccl_bytes, speakers_of
from planner.compute import Compute
from planner.efficiency import rates
from planner.grid_time import GridTime
from planner.grids import Grids
from planner.host_memory import host_memory_bytes, verdict_on_host
from planner.layer_seconds import PartSeconds
from planner.layer_view import GridSizes, LayerCounts, LayerViews, StageActivations
from planner.layout import Layout, PipelineSplit, Recompute
from planner.memory import (
    RUNNING,
    decided_saving_bytes,
    level_bytes,
    passes,
)
from planner.named_split import named_split
from planner.offload import offload_seconds
from planner.placement import GroupPlacement, place
from planner.precision import state_bytes
from planner.problem import Problem
from planner.schedule import Schedule
from planner.split import SplitCosts, best_split
from planner.split_costs import typical_costs
from planner.split_view import SplitView
from planner.stage_filling import candidates, fill
from planner.stage_shape import Moment, StageShape, stage_shape
from planner.step_time import Once, Overlap, gradient_buckets, recipe_overlap
from planner.verdict import Verdict
from planner.workload import TunerType


class Evaluator:
    """Memory and time of the layouts of one problem, with what its stack overlaps, or `overlap`."""

    def __init__(self, problem: Problem, overlap: Overlap | None = None) -> None:
        self.problem = problem
        self.compute = Compute(
            problem.model,
            rates(problem.cluster.gpu, problem.cluster.calibration),
            fused_gradients=problem.stack.apex,
            lora=problem.workload.tuner_type is TunerType.LORA,
        )
        self.layers = LayerViews(problem, self.compute)
        self.overlap = overlap or recipe_overlap(problem.recipe)
        self.states = state_bytes(problem.settings)
        # When a stage may be at its fullest: the optimizer step needs no more than the layers do
        # (tests hold it), unless it widens its states.
        self.decisive = (*RUNNING, Moment.OPTIMIZER) if self.states.widened else RUNNING
        self._others: dict[Overlap, Evaluator] = {}
        self._costs: SplitCosts | None = None
        self._splits: dict[tuple[int, int], PipelineSplit | None] = {}
        self._groups: dict[GridSizes, dict[str, GroupPlacement]] = {}
        self._nccl: dict[tuple[GridSizes, bool], list[float]] = {}
        self._views: dict[PipelineSplit, SplitView] = {}
        self._grids: dict[tuple[object, ...], GridView] = {}
        self._ends: dict[tuple[int, int], tuple[PartSeconds, PartSeconds]] = {}

    def with_overlap(self, overlap: Overlap) -> "Evaluator":
        """The same problem with other overlaps, kept."""
        if overlap not in self._others:
            self._others[overlap] = Evaluator(self.problem, overlap)
        return self._others[overlap]

    def pipeline(
        self, sizes: GridSizes, split: PipelineSplit, dispatcher: str = "alltoall"
    ) -> "PipelineView":
        """The view of a grid with a split."""
        view = self.split_view(split)
        key = (sizes, view.layers_by_stage, dispatcher)
        if key not in self._grids:
            self._grids[key] = GridView(self, sizes, view, dispatcher)
        return PipelineView(self._grids[key], view)

    def batch(self, layout: Layout) -> "BatchView":
        """The view that a layout is evaluated in."""
        sizes = (layout.tp, layout.cp, layout.pp, layout.ep, layout.etp)
        pipeline = self.pipeline(sizes, layout.split, layout.dispatcher)
        return pipeline.batch(layout.micro_batch_size)

    def split(self, num_stages: int, num_virtual_stages: int) -> PipelineSplit | None:
        """The split that a search starts from, solved once, or the one named; see `balance`."""
        key = (num_stages, num_virtual_stages)
        if key not in self._splits:
            self._splits[key] = self._solve(num_stages, num_virtual_stages)
        return self._splits[key]

    def _solve(self, num_stages: int, num_virtual_stages: int) -> PipelineSplit | None:
        settings = self.problem.settings
        if settings.names_split:
            layers = self.problem.model.num_layers
            return named_split(settings, layers, num_stages, num_virtual_stages)
        self._costs = self._costs or typical_costs(self)
        return best_split(self._costs, num_stages, num_virtual_stages)

    def split_view(self, split: PipelineSplit) -> "SplitView":
        """Layer counts of a split."""
        found = self._views.get(split)
        if found is None:
            found = self._views[split] = SplitView(self.problem, split)
        return found

    def ends(self, tokens: int, tp: int) -> tuple[PartSeconds, PartSeconds]:
        """Compute of the embedding, and of the output layers and losses, of a microbatch."""
        key = (tokens, tp)
        if key not in self._ends:
            heads = self.compute.head(tokens, tp).times(1 + self.problem.workload.mtp_num_layers)
            self._ends[key] = self.compute.embedding(tokens, tp), heads
        return self._ends[key]

    def groups(self, sizes: GridSizes) -> dict[str, GroupPlacement]:
        """Placement of all groups of a grid."""
        if sizes not in self._groups:
            tp, cp, pp, ep, etp = sizes
            world = self.problem.cluster.num_gpus
            grids = Grids(world_size=world, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)
            self._groups[sizes] = place(self.problem.cluster, grids)
        return self._groups[sizes]

    def nccl_bytes(self, sizes: GridSizes, *, interleaved: bool) -> list[float]:
        """What NCCL takes of a rank of a grid, by stage; interleaved: stages of several chunks."""
        key = (sizes, interleaved)
        if key not in self._nccl:
            speakers = speakers_of(self.problem, self.groups(sizes))
            self._nccl[key] = nccl_bytes(speakers, interleaved=interleaved)
        return self._nccl[key]


class GridView:
    """A grid with so many layers on every stage: parameters and what follows from them."""

    def __init__(
        self, evaluator: Evaluator, sizes: GridSizes, split: SplitView, dispatcher: str
    ) -> None:
        problem = evaluator.problem
        self.evaluator, self.problem, self.sizes = evaluator, problem, sizes
        tp, cp, pp, ep, etp = sizes
        world = problem.cluster.num_gpus
        self.dp = world // (tp * cp * pp)
        self.groups = evaluator.groups(sizes)
        self.communication = Communication(
            problem.cluster, self.groups, evaluator.overlap, dispatcher
        )
        layout = Layout(world_size=world, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp, split=split.split)
        shapes = {
            stage: stage_shape(problem, layout, stage, evaluator.states) for stage in split.unlike
        }
        static_bytes = {
            stage: {moment: level_bytes(shape, "pipeline", moment) for moment in evaluator.decisive}
            for stage, shape in shapes.items()
        }
        once = {stage: self._once(shape) for stage, shape in shapes.items()}
        # By stage; like stages share them.
        self.shapes = [shapes[stage] for stage in split.like]
        self.static_bytes = [static_bytes[stage] for stage in split.like]
        self.once = [once[stage] for stage in split.like]
        parameters = [shape.parameters for shape in shapes.values()]
        self.host_verdict = verdict_on_host(problem, host_memory_bytes(problem, layout, parameters))
        self._batches: dict[int, GridBatch] = {}

    def num_microbatches(self, micro_batch_size: int) -> int:
        """Microbatches of a step on each pipeline."""
        return self.problem.workload.global_batch_size // (micro_batch_size * self.dp)

    def batch(self, micro_batch_size: int, split: SplitView) -> "GridBatch":
        """The view of a micro-batch size, whatever the schedule."""
        if micro_batch_size not in self._batches:
            self._batches[micro_batch_size] = GridBatch(self, split, micro_batch_size)
        return self._batches[micro_batch_size]

    def _once(self, shape: StageShape) -> Once:
        parameters = shape.parameters
        compute, states = self.evaluator.compute, self.evaluator.states
        reduce, gather = self.communication.data_parallel(
            parameters,
            gradient_bytes=states.gradient,
            sharded=self.problem.settings.use_distributed_optimizer,
        )
        shards = shape.shard_elements
        away = self.problem.settings.offloaded_fraction
        optimizer = compute.optimizer(shards * (1 - away))
        optimizer += offload_seconds(shards, away, states, self.problem.cluster.gpu)
        return Once(
            reduce_gradients=reduce,
            gather_parameters=gather,
            optimizer=optimizer,
            other=compute.housekeeping(parameters.trainable),
            buckets=gradient_buckets(parameters, self.groups["dp_cp"].size),
        )


# Activations of a stage, and its bytes at the decisive moments, but for what the schedule decides.
Recomputed = tuple[StageActivations, list[tuple[Moment, float]]]


class GridBatch:
    """A micro-batch on a grid: all that does not depend on the schedule or on recomputation."""

    def __init__(self, grid: GridView, split: SplitView, micro_batch_size: int) -> None:
        evaluator = grid.evaluator
        self.grid = grid
        self.num_microbatches = grid.num_microbatches(micro_batch_size)
        self.layers = evaluator.layers.layers(grid.sizes, micro_batch_size, grid.communication)
        self.skewed = any(view.imbalanced is not view.shape for view in self.layers.views.values())
        shapes = {each: self._shape(each, split.layers_by_stage[each]) for each in split.unlike}
        # By stage; like stages share them.
        self.shapes = [shapes[stage] for stage in split.like]
        decided = {stage: self._decided(stage) for stage in split.unlike}
        self.decided_bytes = [decided[stage] for stage in split.like]
        saving = {stage: decided_saving_bytes(shapes[stage]) for stage in split.unlike}
        self.decided_saving = [saving[stage] for stage in split.like]
        self._recomputed: dict[tuple[object, ...], Recomputed] = {}
        layer = self.layers.any.shape
        embedding, heads = evaluator.ends(layer.tokens, grid.sizes[0])
        self.time = GridTime(
            layers=self.layers,
            num_microbatches=self.num_microbatches,
            once=grid.once,
            heads=heads,
            embedding=embedding,
            batch=evaluator.compute.batch,
            message=grid.communication.message(layer),
            overlap=evaluator.overlap,
        )

    def recomputed(
        self, stage: int, counts: LayerCounts, recompute: Recompute, num_virtual_stages: int
    ) -> "Recomputed":
        """What a choice of recomputation makes of a stage, at the workload's imbalance.

        Schedules share it, but where the layers of a chunk are not all alike.
        """
        chunks = num_virtual_stages if recompute.method == "block" else 1
        key = (stage, counts, recompute.modules, chunks)
        found = self._recomputed.get(key)
        if found is None:
            shape = self.shapes[stage]
            kept = self.layers.stage(counts, chunks, recompute, imbalanced=self.skewed)
            fill(shape, kept)
            sizes = [
                (moment, decided + level_bytes(shape, "recompute", moment))
                for moment, decided in self.decided_bytes[stage]
            ]
            found = self._recomputed[key] = kept, candidates(shape, sizes)
        return found

    def _decided(self, stage: int) -> list[tuple[Moment, float]]:
        """What is there at the decisive moments whatever is recomputed and kept in flight."""
        shape, static = self.shapes[stage], self.grid.static_bytes[stage]
        sizes = {
            moment: static[moment] + level_bytes(shape, "batch", moment)
            for moment in self.grid.evaluator.decisive
            if passes(shape, moment)
        }
        return list(sizes.items())

    def _shape(self, stage: int, counts: LayerCounts) -> StageShape:
        layer = self.layers.any.shape
        shape = replace(self.grid.shapes[stage])
        shape.tokens, shape.sharded_tokens = layer.tokens, layer.sharded_tokens
        shape.rows_bytes, shape.layer_gradients_bytes = self.layers.holes(counts)
        return shape


@dataclass(frozen=True, slots=True)
class PipelineView:
    """A grid with a pipeline split."""

    grid: GridView
    split: SplitView

    @property
    def host_verdict(self) -> Verdict:
        """The verdict on the memory of a node."""
        return self.grid.host_verdict

    def is_full(self, micro_batch_size: int) -> bool:
        """Whether there are enough microbatches for one more to leave memory as it is."""
        schedule = self.schedule(self.grid.num_microbatches(micro_batch_size))
        return schedule.warm_up(0) < schedule.num_passes

    def schedule(self, num_microbatches: int) -> Schedule:
        """The schedule of so many microbatches."""
        return self.split.schedule(num_microbatches)

    def batch(self, micro_batch_size: int) -> "BatchView":
        """The view of a micro-batch size."""
        batch = self.grid.batch(micro_batch_size, self.split)
        return BatchView(batch, self.split, self.schedule(batch.num_microbatches))
