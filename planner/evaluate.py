"""Evaluate layouts: memory of every stage and seconds of a step.

From the outside in, as a search goes: an `Evaluator` serves a problem, a `PipelineView` a grid with
its split, a `BatchView` a micro-batch on it; that one answers for every choice of recomputation.
Each level keeps what it decides, so that thousands of layouts a second go through the same terms
that a single one does.
"""

from dataclasses import dataclass, replace

from planner.activations import BF16
from planner.compute import Compute
from planner.efficiency import launch_seconds, rates
from planner.grids import Grids
from planner.layer_view import GridSizes, LayerCounts, LayerViews, StageActivations
from planner.layout import NO_RECOMPUTE, Layout, PipelineSplit, Recompute
from planner.memory import Moment, StageMemory, StageShape, device_used, level_bytes, stage_memory
from planner.parameters import RankParameters, rank_parameters
from planner.parts import layer_parts
from planner.placement import GroupPlacement, place
from planner.problem import Problem
from planner.schedule import in_flight_microbatches, pipeline_seconds
from planner.split import SplitCosts, split_layers
from planner.split_view import SplitView, StageCounts
from planner.step_time import Communication, Overlap, StageSeconds, StepTime, step_time

# When a stage may be at its fullest. Only the last stage has a loss; the optimizer step needs no
# more than the layers do (tests hold it).
_DECISIVE = (Moment.LAYER, Moment.LOSS)
_DECISIVE_BEFORE_LAST = (Moment.LAYER,)


class Evaluator:
    """Memory and time of the layouts of one problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.compute = Compute(
            problem.model,
            rates(problem.cluster.gpu),
            launch_seconds(),
            fused_gradients=problem.stack.apex,
        )
        self.layers = LayerViews(problem, self.compute)
        self.overlap = Overlap(
            problem.recipe.overlap_grad_reduce, problem.recipe.overlap_param_gather
        )
        self._costs: SplitCosts | None = None
        self._splits: dict[tuple[int, int], PipelineSplit | None] = {}
        self._groups: dict[GridSizes, dict[str, GroupPlacement]] = {}
        self._views: dict[PipelineSplit, SplitView] = {}
        self._grids: dict[tuple[object, ...], GridView] = {}

    def pipeline(self, sizes: GridSizes, split: PipelineSplit) -> "PipelineView":
        """The view of a grid with a split."""
        view = self.split_view(split)
        key = (sizes, view.layers_by_stage)
        if key not in self._grids:
            self._grids[key] = GridView(self, sizes, split)
        return PipelineView(self._grids[key], view)

    def batch(self, layout: Layout) -> "BatchView":
        """The view that a layout is evaluated in."""
        sizes = (layout.tp, layout.cp, layout.pp, layout.ep, layout.etp)
        return self.pipeline(sizes, layout.split).batch(layout.micro_batch_size)

    def split(self, num_stages: int, num_virtual_stages: int) -> PipelineSplit | None:
        """The best split of the layers, solved once for each pair of sizes."""
        key = (num_stages, num_virtual_stages)
        if key not in self._splits:
            self._costs = self._costs or self._split_costs()
            self._splits[key] = split_layers(self._costs, num_stages, num_virtual_stages)
        return self._splits[key]

    def split_view(self, split: PipelineSplit) -> "SplitView":
        """Layer counts of a split."""
        if split not in self._views:
            self._views[split] = SplitView(self.problem, split)
        return self._views[split]

    def groups(self, sizes: GridSizes) -> dict[str, GroupPlacement]:
        """Placement of all groups of a grid."""
        if sizes not in self._groups:
            tp, cp, pp, ep, etp = sizes
            world = self.problem.cluster.num_gpus
            grids = Grids(world_size=world, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)
            self._groups[sizes] = place(self.problem.cluster, grids)
        return self._groups[sizes]

    def _split_costs(self) -> SplitCosts:
        """Costs of layers without parallelism: only their ratios matter to the split."""
        model, workload = self.problem.model, self.problem.workload
        alone: GridSizes = (1, 1, 1, 1, 1)
        kinds = model.layer_kinds
        communication = Communication(self.problem.cluster, self.groups(alone))
        views = self.layers.layers(alone, 1, communication).views
        seconds = {
            kind: view.seconds.forward + view.seconds.backward for kind, view in views.items()
        }
        kept = {
            kind: view.activations(NO_RECOMPUTE, full=False).saved for kind, view in views.items()
        }
        static = {
            kind: _STATIC_BYTES * sum(part.elements for part in layer_parts(model, kind))
            for kind in views
        }
        head = self.compute.head(workload.seq_length, 1)
        table = model.vocab_size * model.hidden_size * _STATIC_BYTES
        mtp, last = workload.mtp_num_layers, model.mtp_kind
        return SplitCosts(
            layer_seconds=tuple(seconds[kind] for kind in kinds),
            first_seconds=0.0,
            last_seconds=(1 + mtp) * (head.forward + head.backward) + mtp * seconds[last],
            layer_static_bytes=tuple(static[kind] for kind in kinds),
            layer_activation_bytes=tuple(kept[kind] for kind in kinds),
            first_bytes=table,
            last_bytes=table + mtp * static[last],
        )


# bf16 weights, fp32 gradients and, whole, Adam's three fp32 states.
_STATIC_BYTES = 2 + 4 + 12


class GridView:
    """A grid with so many layers on every stage: parameters and what follows from them."""

    def __init__(self, evaluator: Evaluator, sizes: GridSizes, split: PipelineSplit) -> None:
        problem = evaluator.problem
        self.evaluator, self.problem, self.sizes = evaluator, problem, sizes
        tp, cp, pp, ep, etp = sizes
        world = problem.cluster.num_gpus
        self.dp, self.edp = world // (tp * cp * pp), world // (etp * ep * pp)
        self.groups = evaluator.groups(sizes)
        self.communication = Communication(problem.cluster, self.groups)
        layout = Layout(world_size=world, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp, split=split)
        self.shapes = [self._shape(layout, stage) for stage in range(pp)]
        self.static_bytes = [
            {moment: level_bytes(shape, "pipeline", moment) for moment in _DECISIVE}
            for shape in self.shapes
        ]
        self.once = [self._once(shape.parameters) for shape in self.shapes]
        self._batches: dict[int, GridBatch] = {}

    def num_microbatches(self, micro_batch_size: int) -> int:
        """Microbatches of a step on each pipeline."""
        return self.problem.workload.global_batch_size // (micro_batch_size * self.dp)

    def batch(self, micro_batch_size: int, split: SplitView) -> "GridBatch":
        """The view of a micro-batch size, whatever the schedule."""
        if micro_batch_size not in self._batches:
            self._batches[micro_batch_size] = GridBatch(self, split, micro_batch_size)
        return self._batches[micro_batch_size]

    def _shape(self, layout: Layout, stage: int) -> StageShape:
        model, workload = self.problem.model, self.problem.workload
        return StageShape(
            parameters=rank_parameters(model, layout, workload, stage),
            dense_shards=layout.dp * layout.cp,
            expert_shards=layout.edp,
            hidden=model.hidden_size,
            vocabulary=-(-model.vocab_size // layout.tp),
            is_last=stage == layout.pp - 1,
            num_stages=layout.pp,
            tensor_parallel=layout.tp > 1,
            mtp_num_layers=workload.mtp_num_layers,
            has_experts=model.is_moe,
        )

    def _once(self, parameters: RankParameters) -> StageSeconds:
        compute = self.evaluator.compute
        reduce, gather = self.communication.data_parallel(parameters)
        shards = parameters.trainable_dense / (self.dp * self.sizes[1])
        shards += parameters.trainable_expert / self.edp
        return StageSeconds(
            reduce_gradients=reduce,
            gather_parameters=gather,
            optimizer=compute.optimizer(shards),
            other=compute.gradient_housekeeping(parameters.trainable),
        )


# Activations of a stage, and its bytes at the decisive moments, but for what the schedule decides.
Recomputed = tuple[StageActivations, list[tuple[Moment, float]]]


def _fill(shape: StageShape, kept: StageActivations) -> None:
    """Fill in what recomputation decides."""
    shape.saved_bytes, shape.maps_bytes = kept.saved, kept.maps
    shape.recomputed_bytes, shape.checkpoint_bytes = kept.recomputed, kept.checkpoint
    shape.checkpointed_layers = kept.checkpointed_layers


class GridBatch:
    """A micro-batch on a grid: all that does not depend on the schedule or on recomputation."""

    def __init__(self, grid: GridView, split: SplitView, micro_batch_size: int) -> None:
        workload, evaluator = grid.problem.workload, grid.evaluator
        self.grid = grid
        self.num_microbatches = grid.num_microbatches(micro_batch_size)
        self.layers = evaluator.layers.layers(grid.sizes, micro_batch_size, grid.communication)
        self.skewed = workload.routing_imbalance != 1.0 and grid.problem.model.is_moe
        stages = range(len(grid.shapes))
        self.shapes = [self._shape(split.layers_by_stage, each, self.skewed) for each in stages]
        self.balanced = self.shapes
        if self.skewed:
            self.balanced = [self._shape(split.layers_by_stage, each, False) for each in stages]
        self.decided_bytes = [
            [
                (moment, grid.static_bytes[stage][moment] + level_bytes(shape, "batch", moment))
                for moment in (_DECISIVE if shape.is_last else _DECISIVE_BEFORE_LAST)
            ]
            for stage, shape in enumerate(self.shapes)
        ]
        self._recomputed: dict[tuple[object, ...], Recomputed] = {}
        self._seconds: dict[tuple[object, ...], tuple[list[float], float]] = {}
        layer = self.layers.any.shape
        head = evaluator.compute.head(layer.tokens, grid.sizes[0])
        self.head_seconds = (1 + workload.mtp_num_layers) * (head.forward + head.backward)
        self.boundary_seconds = grid.communication.stage_boundary(
            layer.sharded_tokens * layer.hidden * BF16, len(grid.shapes)
        )

    def recomputed(self, stage: int, counts: LayerCounts, recompute: Recompute) -> "Recomputed":
        """What a choice of recomputation makes of a stage, at the workload's imbalance."""
        key = (stage, counts, recompute.modules)
        found = self._recomputed.get(key)
        if found is None:
            shape = self.shapes[stage]
            kept = self.layers.stage(counts, recompute, imbalanced=self.skewed)
            _fill(shape, kept)
            found = self._recomputed[key] = (
                kept,
                [
                    (moment, decided + level_bytes(shape, "recompute", moment))
                    for moment, decided in self.decided_bytes[stage]
                ],
            )
        return found

    def seconds(self, counts: StageCounts, recompute: Recompute) -> tuple[list[float], float]:
        """Seconds of one microbatch on every stage, boundaries apart, and of what is done once."""
        key = (counts, recompute.modules)
        found = self._seconds.get(key)
        if found is None:
            found = self._seconds[key] = self._add_up(counts, recompute)
        return found

    def _add_up(self, counts: StageCounts, recompute: Recompute) -> tuple[list[float], float]:
        overlap = self.grid.evaluator.overlap
        seconds, once = [], 0.0
        for stage, layers in enumerate(counts):
            compute, exchanged = self.layers.microbatch_seconds(layers, recompute)
            if stage == len(counts) - 1:
                compute += self.head_seconds
            seconds.append(compute + exchanged)
            once = max(once, overlap.seen(self.grid.once[stage], compute))
        return seconds, once

    def _shape(self, counts: StageCounts, stage: int, imbalanced: bool) -> StageShape:
        layer = self.layers.any.shape
        shape = replace(self.grid.shapes[stage])
        shape.tokens, shape.sharded_tokens = layer.tokens, layer.sharded_tokens
        shape.transient_bytes = self.layers.transient_bytes(counts[stage], imbalanced=imbalanced)
        return shape


@dataclass(frozen=True, slots=True)
class PipelineView:
    """A grid with a pipeline split."""

    grid: GridView
    split: SplitView

    def is_full(self, micro_batch_size: int) -> bool:
        """Whether there are enough microbatches for one more to leave memory as it is."""
        stages, virtual = self.split.split.num_stages, self.split.split.num_virtual_stages
        number = self.grid.num_microbatches(micro_batch_size)
        kept, with_more = (
            in_flight_microbatches(stages, virtual, each, 0) for each in (number, number + 1)
        )
        return kept == with_more

    def batch(self, micro_batch_size: int) -> "BatchView":
        """The view of a micro-batch size."""
        return BatchView(self.grid.batch(micro_batch_size, self.split), self.split)


class BatchView:
    """A micro-batch on a pipeline; answers for every choice of recomputation."""

    def __init__(self, batch: GridBatch, split: SplitView) -> None:
        self._batch, self._grid, self._split = batch, batch.grid, split
        self._layers = batch.layers
        self.num_microbatches = batch.num_microbatches
        self._boundary = batch.boundary_seconds * split.split.num_virtual_stages
        self._in_flight = [
            in_flight_microbatches(
                split.split.num_stages,
                split.split.num_virtual_stages,
                self.num_microbatches,
                stage,
            )
            for stage in range(split.split.num_stages)
        ]

    def device_used(self, recompute: Recompute) -> float:
        """Device memory of the fullest stage, in bytes: what decides fit."""
        batch, most = self._batch, 0.0
        counts = self._split.counts(recompute)
        for stage in self._split.decisive:
            shape = batch.shapes[stage]
            kept, decided = batch.recomputed(stage, counts[stage], recompute)
            _fill(shape, kept)
            shape.in_flight = self._in_flight[stage]
            for moment, so_far in decided:
                size = so_far + level_bytes(shape, "schedule", moment)
                if size > most:
                    most = size
        return device_used(most, self._grid.problem.cluster.num_gpus)

    def memory(self, recompute: Recompute) -> list[StageMemory]:
        """Memory of every stage's worst rank, term by term."""
        batch, found = self._batch, []
        cluster = self._grid.problem.cluster
        for stage, counts in enumerate(self._split.counts(recompute)):
            shape, decisive = batch.balanced[stage], batch.shapes[stage]
            for each in (shape, decisive):
                imbalanced = each is not shape
                _fill(each, self._layers.stage(counts, recompute, imbalanced=imbalanced))
                each.in_flight = self._in_flight[stage]
            found.append(
                stage_memory(
                    shape,
                    decisive,
                    world_size=cluster.num_gpus,
                    usable_bytes=cluster.gpu.memory_usable_bytes,
                )
            )
        return found

    def parameters(self, stage: int) -> RankParameters:
        """Parameters of any rank of a stage."""
        return self._grid.shapes[stage].parameters

    def step_seconds(self, recompute: Recompute) -> float:
        """Seconds of a step."""
        seconds, once = self._batch.seconds(self._split.counts(recompute), recompute)
        return self._pipelined([stage + self._boundary for stage in seconds]) + once

    def step_time(self, recompute: Recompute) -> StepTime:
        """Seconds of a step, term by term."""
        stages = [self._seconds(stage, recompute) for stage in range(self._split.split.num_stages)]
        pipelined = self._pipelined([stage.microbatch for stage in stages])
        overlap = self._grid.evaluator.overlap
        return step_time(stages, self.num_microbatches, pipelined, overlap)

    def _pipelined(self, stage_seconds: list[float]) -> float:
        return pipeline_seconds(
            stage_seconds, self.num_microbatches, self._split.split.num_virtual_stages
        )

    def _seconds(self, stage: int, recompute: Recompute) -> StageSeconds:
        compute = tp = ep = cp = cp_hidden = 0.0
        for kind, full, count in self._split.layers(stage, recompute):
            view = self._layers.views[kind]
            layer = view.seconds
            again = layer.recompute(recompute, full=full)
            compute += count * (layer.forward + layer.backward + again)
            exchanged = view.communication(recompute, full=full)
            tp += count * exchanged.tp
            ep += count * exchanged.ep
            cp += count * exchanged.cp
            cp_hidden += count * exchanged.cp_hidden
        if stage == self._split.split.num_stages - 1:
            compute += self._batch.head_seconds
        return replace(
            self._grid.once[stage],
            compute=compute,
            tp=tp,
            ep=ep,
            cp=cp,
            cp_hidden=cp_hidden,
            pp=self._boundary,
        )
