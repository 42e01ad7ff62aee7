"""Evaluate layouts: memory of every stage and seconds of a step.

One `Evaluator` serves a whole search: what depends on few sizes is kept by those sizes, so that
thousands of layouts a second go through the same terms that a single one does.
"""

from typing import Any

from planner.activations import BF16, LayerActivations, LayerShape, layer_activations, layer_shape
from planner.compute import Compute, LayerSeconds, PartSeconds, head_flops, layer_flops
from planner.constraints import Problem
from planner.efficiency import launch_seconds, rates
from planner.grids import Grids
from planner.layout import Layout, PipelineSplit
from planner.memory import StageMemory, StageShape, stage_memory
from planner.parameters import RankParameters, layer_parts, rank_parameters
from planner.placement import GroupPlacement, place
from planner.schedule import in_flight_microbatches, pipeline_seconds
from planner.split import SplitCosts, split_layers
from planner.step_time import Communication, StageSeconds, StepTime, step_time
from planner.workload import TunerType


class Evaluator:
    """Memory and time of layouts of one problem."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        model, stack = problem.model, problem.stack
        self._compute = Compute(
            model, rates(problem.cluster.gpu), launch_seconds(), fused_gradients=stack.apex
        )
        self._lora = problem.workload.tuner_type is TunerType.LORA
        self._kept: dict[Any, Any] = {}

    def memory(self, layout: Layout) -> list[StageMemory]:
        """Memory of every stage's worst rank."""
        return [self.stage_memory(layout, stage) for stage in range(layout.pp)]

    def stage_memory(self, layout: Layout, stage: int) -> StageMemory:
        """Memory of the worst rank of one stage."""
        problem = self._problem
        shape = self._stage_shape(layout, stage, 1.0)
        imbalance = problem.workload.routing_imbalance
        if imbalance == 1.0 or not problem.model.is_moe:
            imbalanced = shape
        else:
            imbalanced = self._stage_shape(layout, stage, imbalance)
        groups = self._groups(layout)
        names = ("tp", "cp", "pp", "ep", "etp", "dp_cp", "edp")
        return stage_memory(
            shape,
            imbalanced,
            communicators=sum(groups[name].size > 1 for name in names),
            usable_bytes=problem.cluster.gpu.memory_usable_bytes,
        )

    def step_time(self, layout: Layout) -> StepTime:
        """Seconds of a step."""
        stages = [self._stage_seconds(layout, stage) for stage in range(layout.pp)]
        pipeline = pipeline_seconds(
            [stage.microbatch for stage in stages], layout.num_microbatches, layout.vpp
        )
        return step_time(stages, layout, pipeline)

    def parameters(self, layout: Layout, stage: int) -> RankParameters:
        """Parameters of any rank of a stage."""
        key = ("parameters", layout.tp, layout.ep, layout.etp, layout.split, stage)
        if key not in self._kept:
            model, workload = self._problem.model, self._problem.workload
            self._kept[key] = rank_parameters(model, layout, workload, stage)
        found: RankParameters = self._kept[key]
        return found

    def split(self, num_stages: int, num_virtual_stages: int) -> PipelineSplit | None:
        """The best split of the layers, solved once for each pair of sizes."""
        key = ("split", num_stages, num_virtual_stages)
        if key not in self._kept:
            self._kept[key] = split_layers(self._split_costs(), num_stages, num_virtual_stages)
        found: PipelineSplit | None = self._kept[key]
        return found

    def model_flops(self) -> float:
        """FLOPs of the forward and backward pass of a step's samples, recomputation apart.

        Megatron-LM's convention since commit 8873b55d6a: causal attention halved, top-k experts,
        output layer included.
        """
        model, workload = self._problem.model, self._problem.workload
        tokens, document = workload.seq_length, workload.document_tokens
        sample = head_flops(model, tokens) * (1 + workload.mtp_num_layers)
        kinds = [*model.moe_layers, *[model.moe_layers[-1]] * workload.mtp_num_layers]
        sample += sum(layer_flops(model, is_moe, tokens, document) for is_moe in kinds)
        return 3 * sample * workload.global_batch_size

    def _groups(self, layout: Layout) -> dict[str, GroupPlacement]:
        key = ("groups", layout.tp, layout.cp, layout.pp, layout.ep, layout.etp)
        if key not in self._kept:
            grids = Grids(
                world_size=layout.world_size,
                tp=layout.tp,
                cp=layout.cp,
                pp=layout.pp,
                ep=layout.ep,
                etp=layout.etp,
            )
            self._kept[key] = place(self._problem.cluster, grids)
        found: dict[str, GroupPlacement] = self._kept[key]
        return found

    def _layer_shape(self, layout: Layout, is_moe: bool, imbalance: float) -> LayerShape:
        sizes = (layout.tp, layout.cp, layout.ep, layout.etp, layout.micro_batch_size)
        key = ("shape", sizes, is_moe, imbalance)
        if key not in self._kept:
            sequence = -(-self._problem.workload.seq_length // layout.cp)
            self._kept[key] = layer_shape(
                self._problem.model,
                is_moe=is_moe,
                tokens=layout.micro_batch_size * sequence,
                sequence=sequence,
                tp=layout.tp,
                ep=layout.ep,
                etp=layout.etp,
                imbalance=imbalance,
                lora=self._lora,
            )
        found: LayerShape = self._kept[key]
        return found

    def _activations(
        self, layout: Layout, is_moe: bool, imbalance: float, *, full: bool
    ) -> LayerActivations:
        sizes = (layout.tp, layout.cp, layout.ep, layout.etp, layout.micro_batch_size)
        modules = () if full else layout.recompute.modules
        key = ("activations", sizes, is_moe, imbalance, modules, full)
        if key not in self._kept:
            shape = self._layer_shape(layout, is_moe, imbalance)
            self._kept[key] = layer_activations(shape, layout.recompute, full=full)
        found: LayerActivations = self._kept[key]
        return found

    def _layer_seconds(self, layout: Layout, is_moe: bool) -> LayerSeconds:
        sizes = (layout.tp, layout.cp, layout.ep, layout.etp, layout.micro_batch_size)
        key = ("layer_seconds", sizes, is_moe)
        if key not in self._kept:
            workload = self._problem.workload
            shape = self._layer_shape(layout, is_moe, workload.routing_imbalance)
            self._kept[key] = self._compute.layer(
                shape, layout.tp, layout.ep, workload.document_tokens
            )
        found: LayerSeconds = self._kept[key]
        return found

    def _layers(self, layout: Layout, stage: int) -> dict[tuple[bool, bool], int]:
        """How many layers of a stage are (sparse, recomputed as a whole), MTP's included."""
        key = ("layers", layout.split, layout.recompute, stage)
        if key not in self._kept:
            model, recompute = self._problem.model, layout.recompute
            whole = recompute.granularity == "full"
            block = recompute.num_layers if recompute.method == "block" else None
            found: dict[tuple[bool, bool], int] = {}
            for first, end in layout.split.chunks[stage]:
                for layer in range(first, end):
                    full = whole and (block is None or layer - first < block)
                    kind = (model.moe_layers[layer], full)
                    found[kind] = found.get(kind, 0) + 1
            if stage == layout.pp - 1 and self._problem.workload.mtp_num_layers:
                kind = (model.moe_layers[-1], whole)
                found[kind] = found.get(kind, 0) + self._problem.workload.mtp_num_layers
            self._kept[key] = found
        layers: dict[tuple[bool, bool], int] = self._kept[key]
        return layers

    def _stage_shape(self, layout: Layout, stage: int, imbalance: float) -> StageShape:
        model, workload = self._problem.model, self._problem.workload
        layers = [
            (count, full, self._activations(layout, is_moe, imbalance, full=full))
            for (is_moe, full), count in self._layers(layout, stage).items()
        ]
        partly = layout.recompute.granularity == "selective"
        shape = self._layer_shape(layout, model.moe_layers[-1], imbalance)
        return StageShape(
            parameters=self.parameters(layout, stage),
            dense_shards=layout.dp * layout.cp,
            expert_shards=layout.edp,
            saved_bytes=sum(count * each.saved for count, _, each in layers),
            checkpointed_layers=sum(
                count for count, full, each in layers if full or (partly and _checkpoints(layout))
            ),
            num_layers=sum(count for count, _, _ in layers),
            largest=max((each for _, _, each in layers), key=_need),
            maps_bytes=sum(count * each.maps for count, _, each in layers),
            in_flight=in_flight_microbatches(layout.pp, layout.vpp, layout.num_microbatches, stage),
            tokens=shape.tokens,
            sharded_tokens=shape.sharded_tokens,
            hidden=model.hidden_size,
            vocabulary=model.vocab_size // layout.tp,
            is_last=stage == layout.pp - 1,
            num_stages=layout.pp,
            tensor_parallel=layout.tp > 1,
            mtp_num_layers=workload.mtp_num_layers,
            has_experts=model.is_moe,
        )

    def _stage_seconds(self, layout: Layout, stage: int) -> StageSeconds:
        groups = self._groups(layout)
        communication = Communication(self._problem.cluster, groups)
        compute = tp = ep = cp = cp_hidden = 0.0
        for (is_moe, full), count in self._layers(layout, stage).items():
            seconds = self._layer_seconds(layout, is_moe)
            again = seconds.recompute(layout.recompute, full=full)
            compute += count * (seconds.forward + seconds.backward + again)
            shape = self._layer_shape(layout, is_moe, 1.0)
            exchanged = communication.layer(
                shape,
                recompute_passes=1.0 if full or "moe" in layout.recompute.modules else 0.0,
                attention_seconds=seconds.attention.forward + seconds.attention.backward,
            )
            tp += count * exchanged.tp
            ep += count * exchanged.ep
            cp += count * exchanged.cp
            cp_hidden += count * exchanged.cp_hidden
        shape = self._layer_shape(layout, self._problem.model.moe_layers[-1], 1.0)
        if stage == layout.pp - 1:
            head = self._head(layout, shape.tokens)
            compute += head.forward + head.backward
        parameters = self.parameters(layout, stage)
        reduce, gather = communication.data_parallel(parameters)
        shards = parameters.trainable_dense / (layout.dp * layout.cp)
        shards += parameters.trainable_expert / layout.edp
        hidden_bytes = shape.sharded_tokens * shape.hidden * BF16
        return StageSeconds(
            compute=compute,
            tp=tp,
            ep=ep,
            cp=cp,
            cp_hidden=cp_hidden,
            pp=communication.stage_boundary(hidden_bytes, layout.pp, layout.vpp),
            reduce_gradients=reduce,
            gather_parameters=gather,
            optimizer=self._compute.optimizer(shards),
            other=self._compute.gradient_housekeeping(parameters.trainable),
        )

    def _head(self, layout: Layout, tokens: int) -> PartSeconds:
        head = self._compute.head(tokens, layout.tp)
        heads = 1 + self._problem.workload.mtp_num_layers
        return PartSeconds(forward=heads * head.forward, backward=heads * head.backward)

    def _split_costs(self) -> SplitCosts:
        """Costs of layers on one GPU without parallelism: only their ratios matter to the split."""
        model, workload = self._problem.model, self._problem.workload
        one = Layout(world_size=1, split=PipelineSplit((((0, model.num_layers),),)))
        seconds = {kind: self._layer_seconds(one, kind) for kind in set(model.moe_layers)}
        kept = {
            kind: self._activations(one, kind, 1.0, full=False).saved
            for kind in set(model.moe_layers)
        }
        parameters = {kind: self._layer_parameters(kind) for kind in set(model.moe_layers)}
        head = self._head(one, workload.seq_length)
        table = model.vocab_size * model.hidden_size * _STATIC_BYTES
        mtp = workload.mtp_num_layers
        last = model.moe_layers[-1]
        return SplitCosts(
            layer_seconds=tuple(
                seconds[kind].forward + seconds[kind].backward for kind in model.moe_layers
            ),
            first_seconds=0.0,
            last_seconds=head.forward
            + head.backward
            + mtp * (seconds[last].forward + seconds[last].backward),
            layer_static_bytes=tuple(parameters[kind] * _STATIC_BYTES for kind in model.moe_layers),
            layer_activation_bytes=tuple(kept[kind] for kind in model.moe_layers),
            first_bytes=table,
            last_bytes=table + mtp * parameters[last] * _STATIC_BYTES,
        )

    def _layer_parameters(self, is_moe: bool) -> int:
        return sum(part.elements for part in layer_parts(self._problem.model, is_moe))


# bf16 weights, fp32 gradients and, whole, Adam's three fp32 states.
_STATIC_BYTES = 2 + 4 + 12


def _need(layer: LayerActivations) -> float:
    return layer.recomputed + layer.transient


def _checkpoints(layout: Layout) -> bool:
    """Whether a module is recomputed by a checkpoint that keeps its input and its gradient."""
    return bool({"moe", "mlp"}.intersection(layout.recompute.modules))
