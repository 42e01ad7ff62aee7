"""One layer kind under some sizes: its shape, activations, compute and collectives, kept once."""

from dataclasses import dataclass, field
from typing import NamedTuple

from planner.communication import Communication, LayerCommunication
from planner.compute import Compute
from planner.layer_moments import (
    LayerActivations,
    feed_forward_gradients_bytes,
    layer_activations,
)
from planner.layer_seconds import LayerSeconds
from planner.layer_shape import BF16, LayerShape, layer_shape
from planner.layout import Recompute
from planner.model_spec import LayerKind
from planner.precision import fp8_recipe
from planner.problem import Problem
from planner.workload import TunerType

GridSizes = tuple[int, int, int, int, int]  # tp, cp, pp, ep, etp


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerView:
    """A layer of one microbatch on one rank.

    `imbalanced` is the shape at the workload's routing imbalance, which decides fit and time;
    `shape` is the balanced one.
    """

    shape: LayerShape
    imbalanced: LayerShape
    seconds: LayerSeconds
    _activations: dict[tuple[object, ...], LayerActivations]  # shared: see `LayerViews`
    _communication: Communication
    _exchanged: dict[tuple[bool, bool, bool], LayerCommunication] = field(default_factory=dict)
    _seconds: dict[bool | tuple[str, ...], tuple[float, float]] = field(default_factory=dict)

    def activations(
        self, recompute: Recompute, *, full: bool, imbalanced: bool = False
    ) -> LayerActivations:
        """What the layer keeps; `full` says that this layer is checkpointed as a whole."""
        key = (full or recompute.modules, imbalanced)
        found = self._activations.get(key)
        if found is None:
            shape = self.imbalanced if imbalanced else self.shape
            found = self._activations[key] = layer_activations(shape, recompute, full=full)
        return found

    def microbatch_seconds(self, recompute: Recompute, *, full: bool) -> tuple[float, float]:
        """Seconds of the forward pass, and of the backward pass with recomputation, exposed
        communication included."""
        key = full or recompute.modules
        found = self._seconds.get(key)
        if found is None:
            exchanged = self.communication(recompute, full=full)
            again = self.seconds.recompute(recompute, full=full)
            found = (
                self.seconds.forward + exchanged.forward.exposed,
                self.seconds.backward + again + exchanged.backward.exposed,
            )
            self._seconds[key] = found
        return found

    def communication(self, recompute: Recompute, *, full: bool) -> LayerCommunication:
        """Its collectives, those that recomputation runs again with them."""
        shared_again = "shared_experts" in recompute.modules
        key = (full, full or recompute.feed_forward(self.shape.is_moe), shared_again)
        found = self._exchanged.get(key)
        if found is None:
            found = self._exchanged[key] = self._communication.layer(
                self.imbalanced,
                self.seconds,
                attention_again=key[0],
                feed_forward_again=key[1],
                shared_experts_again=shared_again,
            )
        return found


# How many layers of a kind are recomputed as a whole or not: (kind, whole, number).
LayerCounts = tuple[tuple[LayerKind, bool, int], ...]


class StageActivations(NamedTuple):
    """What recomputation decides for the layers of a stage and one microbatch, in bytes."""

    saved: float
    whole_layers: bool  # whether any is recomputed as a whole
    recomputed: float  # of the layer that needs most beside what is kept
    transient: float  # of that layer
    moment: str  # when it needs most; empty without layers
    in_forward: bool  # whether that is in a forward pass, and not in one that is done again
    holds_graph: bool  # whether a token dispatcher holds a microbatch's graph to its beginning
    maps: float  # that token dispatchers hold
    checkpointed_maps: float  # of those in recomputed layers
    checkpoints: float  # inputs that sparse layers, or their experts, are recomputed from
    whole_checkpoints: float  # of those, the inputs of whole layers
    checkpoint: float  # the largest of them


def _worst_layer(
    layers: list[tuple[int, bool, bool, LayerActivations]], chunks: int
) -> tuple[float, float, str, bool]:
    """What the layer that needs most has built again and has for a moment, that moment, and whether
    it is in a forward pass.

    Layers that are recomputed as a whole come first in a chunk: when it is their turn, what the
    others of their chunk kept of the microbatch is gone.
    """
    others = sum(count * kept.saved for count, full, _, kept in layers if not full) / chunks
    needs = [
        (kept.recomputed, kept.transient - (others if full else 0), kept.moment, kept.in_forward)
        for _, full, _, kept in layers
    ]
    if not needs:
        return 0.0, 0.0, "", False
    recomputed, transient, moment, in_forward = max(needs, key=lambda need: need[0] + need[1])
    return recomputed + min(0.0, transient), max(0.0, transient), moment, in_forward


class LayerSet:
    """A layer of every kind under some sizes; `kept` is shared: see `LayerViews`."""

    def __init__(
        self, views: dict[LayerKind, LayerView], kept: dict[tuple[object, ...], StageActivations]
    ) -> None:
        self.views = views
        self._activations = kept

    @property
    def any(self) -> LayerView:
        """One of them, for the sizes that all have: tokens and hidden size."""
        return next(iter(self.views.values()))

    def holes(self, counts: LayerCounts) -> tuple[float, float]:
        """Bytes on which the allocator's holes depend, of the layers of a stage: the hidden states
        that experts of the busiest rank get, and the gradients of a layer's feed-forward weights as
        tensors of their own."""
        shapes = [self.views[kind].imbalanced for kind, _, _ in counts]
        rows = max((shape.routed_rows * shape.hidden * BF16 for shape in shapes), default=0.0)
        return rows, max(map(feed_forward_gradients_bytes, shapes), default=0.0)

    def stage(
        self, counts: LayerCounts, chunks: int, recompute: Recompute, *, imbalanced: bool
    ) -> StageActivations:
        """Activations of so many layers, in so many chunks."""
        key = (counts, chunks, recompute.modules, imbalanced)
        found = self._activations.get(key)
        if found is None:
            found = self._activations[key] = self._stage(counts, chunks, recompute, imbalanced)
        return found

    def _stage(
        self, counts: LayerCounts, chunks: int, recompute: Recompute, imbalanced: bool
    ) -> StageActivations:
        layers = [
            (
                count,
                full,
                full or recompute.feed_forward(kind.is_moe),
                self.views[kind].activations(recompute, full=full, imbalanced=imbalanced),
            )
            for kind, full, count in counts
        ]
        saved = maps = checkpointed_maps = 0.0
        checkpoints = whole_checkpoints = checkpoint = 0.0
        whole_layers = holds_graph = False
        for count, full, again, kept in layers:
            saved += count * kept.saved
            maps += count * kept.maps
            whole_layers = whole_layers or full
            if kept.maps and not again:
                holds_graph = True
            elif kept.maps:
                checkpointed_maps += count * kept.maps
                checkpoints += count * kept.checkpoint
                whole_checkpoints += count * kept.checkpoint * full
                checkpoint = max(checkpoint, kept.checkpoint)
        recomputed, transient, moment, in_forward = _worst_layer(layers, chunks)
        return StageActivations(
            saved=saved,
            whole_layers=whole_layers,
            recomputed=recomputed,
            transient=transient,
            moment=moment,
            in_forward=in_forward,
            holds_graph=holds_graph,
            maps=maps,
            checkpointed_maps=checkpointed_maps,
            checkpoints=checkpoints,
            whole_checkpoints=whole_checkpoints,
            checkpoint=checkpoint,
        )

    def microbatch_seconds(self, counts: LayerCounts, recompute: Recompute) -> tuple[float, float]:
        """Seconds of the forward and of the backward pass of these layers."""
        forward = backward = 0.0
        for kind, full, count in counts:
            layer = self.views[kind].microbatch_seconds(recompute, full=full)
            forward += count * layer[0]
            backward += count * layer[1]
        return forward, backward

    def waiting_seconds(self, counts: LayerCounts, recompute: Recompute) -> float:
        """Seconds of these layers' backward pass in which the GPU waits for the host."""
        return sum(
            count * self.views[kind].seconds.waiting(recompute, full=full)
            for kind, full, count in counts
        )


def _local_sizes(sizes: GridSizes, micro_batch_size: int) -> tuple[int, ...]:
    """What the shape of a layer on a rank depends on."""
    tp, cp, _, ep, etp = sizes
    return (tp, cp, etp, ep > 1, micro_batch_size)


# The balanced and the imbalanced shape, and activations by choice of recomputation.
_Shapes = tuple[LayerShape, LayerShape, dict[tuple[object, ...], LayerActivations]]


class LayerViews:
    """The layers of a problem, by the sizes that they depend on.

    Shapes and activations depend neither on PP nor on how many ranks share the experts, but on
    whether any do; compute not on PP; only collectives depend on every size.
    """

    def __init__(self, problem: Problem, compute: Compute) -> None:
        self._problem, self._compute = problem, compute
        self._lora = problem.workload.tuner_type is TunerType.LORA
        self._fused_gradients = problem.stack.apex
        recipe = fp8_recipe(problem.settings)
        self._fp8_input_bytes = None if recipe is None else recipe.input_bytes
        self._kept: dict[tuple[object, ...], LayerSet] = {}
        self._activations: dict[tuple[float, ...], dict[tuple[object, ...], StageActivations]] = {}
        self._shapes: dict[tuple[object, ...], _Shapes] = {}
        self._seconds: dict[tuple[object, ...], LayerSeconds] = {}

    def layers(
        self, sizes: GridSizes, micro_batch_size: int, communication: Communication
    ) -> LayerSet:
        """The layers of a grid and a micro-batch size."""
        key = (*sizes, micro_batch_size, communication.dispatcher)
        found = self._kept.get(key)
        if found is None:
            views = {
                kind: self._make(sizes, micro_batch_size, kind, communication)
                for kind in dict.fromkeys(self._problem.model.layer_kinds)
            }
            kept = self._activations.setdefault(self._local(sizes, micro_batch_size), {})
            found = self._kept[key] = LayerSet(views, kept)
        return found

    def _make(
        self,
        sizes: GridSizes,
        micro_batch_size: int,
        kind: LayerKind,
        communication: Communication,
    ) -> LayerView:
        tp, ep, workload = sizes[0], sizes[3], self._problem.workload
        imbalance = self._imbalance(ep)
        key = (*self._local(sizes, micro_batch_size), kind)
        if key not in self._shapes:
            even = self._capped(1.0)
            balanced = imbalanced = self._shape(sizes, micro_batch_size, kind, even)
            if kind.is_moe and imbalance != even:
                imbalanced = self._shape(sizes, micro_batch_size, kind, imbalance)
            self._shapes[key] = (balanced, imbalanced, {})
        balanced, imbalanced, activations = self._shapes[key]
        if (*key, ep) not in self._seconds:
            self._seconds[*key, ep] = self._compute.layer(
                imbalanced, kind, tp, ep, workload.document_tokens
            )
        return LayerView(
            shape=balanced,
            imbalanced=imbalanced,
            seconds=self._seconds[*key, ep],
            _activations=activations,
            _communication=communication,
        )

    def _imbalance(self, ep: int) -> float:
        """The busiest rank's load over the mean: with all tokens on one of EP ranks, it is EP."""
        return self._capped(min(self._problem.workload.routing_imbalance, ep))

    def _capped(self, load: float) -> float:
        """The load that experts of a capacity take, or are padded to (megatron-core 0.16.1,
        megatron/core/transformer/moe/moe_utils.py: apply_router_token_dropping)."""
        settings = self._problem.settings
        capacity = settings.moe_expert_capacity_factor
        if capacity is None:
            return load
        return capacity if settings.moe_pad_expert_input_to_capacity else min(load, capacity)

    def _local(self, sizes: GridSizes, micro_batch_size: int) -> tuple[float, ...]:
        """What the shapes of layers depend on."""
        local = _local_sizes(sizes, micro_batch_size)
        # without fused gradients a layer has those of its experts for a moment
        experts = 0 if self._fused_gradients else sizes[3]
        return (*local, experts, self._imbalance(sizes[3]))

    def _shape(
        self,
        sizes: GridSizes,
        micro_batch_size: int,
        kind: LayerKind,
        imbalance: float,
    ) -> LayerShape:
        tp, cp, _, ep, etp = sizes
        sequence = -(-self._problem.workload.seq_length // cp)
        return layer_shape(
            self._problem.model,
            kind=kind,
            tokens=micro_batch_size * sequence,
            tp=tp,
            ep=ep,
            etp=etp,
            cp=cp,
            imbalance=imbalance,
            lora=self._lora,
            adapter_rank=self._problem.workload.lora_rank if self._lora else 0,
            packed=self._problem.workload.packing,
            flash_attention=self._problem.stack.attention_backend == "flash",
            fused_gradients=self._fused_gradients,
            overlaps_shared_experts=self._problem.recipe.moe_shared_expert_overlap,
            fp8_input_bytes=self._fp8_input_bytes,
        )
