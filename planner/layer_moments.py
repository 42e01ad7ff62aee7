"""What one layer has for a moment, beside what it keeps: at the end of its experts' forward pass,
in the backward pass of each matrix product, of the activation function, of attention.

`MOMENTS` lists them; a layer needs as much as at the worst of them. Read off memory traces of real
ranks as `planner.activations`, whose short names of packages are used. `rows` are those that the
rank's experts get; R is their hidden states, S what the rank sends, F the experts' activation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.activations import (
    ATTENTION,
    FEED_FORWARD,
    core_attention_input,
    held_maps_bytes,
    tensors_of,
)
from planner.layer_shape import BF16, FP32, LayerShape
from planner.layout import Recompute

FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True, slots=True)
class LayerMoment:
    """Buffers that live together for a moment: which layers have them, in which part and pass, and
    which saved tensors are gone by then. `later` are tensors that, given up by a module of their
    own, are built again only after it; `still` are those that are given up, but only after it."""

    id: str
    kind: str  # dense | moe | any
    part: str
    direction: str
    bytes: Callable[[LayerShape], float]
    source: str
    freed: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    still: tuple[str, ...] = ()


def _sent(s: LayerShape) -> float:
    return float(s.sent_rows * s.hidden * BF16)


def _received(s: LayerShape) -> float:
    """Hidden states that come to this rank from others, before they are gathered over ETP."""
    if s.local_experts == s.experts:
        return 0.0
    return s.routed_rows / s.expert_tensor_parallel_size * s.hidden * BF16


def _rows(s: LayerShape, elements: int) -> float:
    return s.routed_rows * elements * BF16


def _shared_output(s: LayerShape) -> float:
    """Of shared experts that do not run beside the dispatch but before it, kept until the sum."""
    beside = s.overlaps_shared_experts or not s.shared_ffn
    return 0.0 if beside else float(s.sharded_tokens * s.hidden * BF16)


def _returned(s: LayerShape) -> float:
    """Outputs of experts that come back from other ranks."""
    return _sent(s) if s.local_experts < s.experts else 0.0


def _shared_fc2_outputs(s: LayerShape) -> float:
    """Of the second layer of shared experts, of all tokens: under TP it is reduced to this rank's
    while it is there; with an adapter there are its output and both sums of them."""
    reduced = s.sharded_tokens if s.gathers else 0
    return float((3 * s.tokens if s.lora else s.tokens + reduced) * s.hidden * BF16)


def _combined(s: LayerShape) -> float:
    """With ETP the experts' outputs are reduced in fp32: their copy, and what the rank gets."""
    etp = s.expert_tensor_parallel_size
    return s.routed_rows * s.hidden * FP32 * (1 + 1 / etp) if etp > 1 else 0.0


def _weight_gradient(s: LayerShape, elements: int) -> float:
    """Without a fused kernel a weight's gradient is a tensor of its own; LoRA has none of note."""
    return 0.0 if s.fused_gradients or s.lora else float(elements * BF16)


def _gathered(s: LayerShape) -> float:
    """Under sequence parallelism a backward pass gathers its input and has its gradient whole."""
    return s.tokens * s.hidden * BF16 * (2 if s.gathers else 1)


def _attention_gradients(s: LayerShape) -> float:
    """Those of output, queries, keys and values. Under CP there are besides two buffers that go
    round with keys, values and their gradients, and one of dq."""
    elements = s.attention_output + s.query + s.keys_and_values
    if s.context_parallel_size > 1:
        elements += s.query + 4 * s.keys_and_values
    return float(s.tokens * elements * BF16)


def _attention_workspace(s: LayerShape) -> float:
    """dq summed up in fp32 and, where heads share keys, dk and dv of every head of packed batches:
    cuDNN has them in fp32, flash-attn in bf16.

    Source: NVIDIA/cudnn-frontend, include/cudnn_frontend/node/scaled_dot_product_flash_attention.h,
    CompositeSDPABackwardNode: dQ_accum_size, dK_fullhead_size, dV_fullhead_size; flash-attn 2.8,
    csrc/flash_attn/flash_api.cpp: dq_accum, dk_expanded, dv_expanded.
    """
    shared = s.packed and s.latent is None and s.key_value < s.query
    of_heads = 2 * (BF16 if s.flash_attention else FP32) if shared else 0
    return float(s.tokens * s.query * (FP32 + of_heads))


CHECKPOINTED = "layer_input"  # what a layer that is recomputed as a whole keeps
_SHARED = (
    "shared_experts_input",
    "shared_experts",
    "gated_shared_output",
    "adapted_shared_experts",
)
_EXPERT_ACTIVATIONS = ("expert_fc1_output", "expert_activation")
_MLP_ACTIVATIONS = ("mlp_fc1_output", "mlp_activation")

MOMENTS: tuple[LayerMoment, ...] = (
    LayerMoment(
        "experts_sorted",
        "moe",
        FEED_FORWARD,
        FORWARD,
        lambda s: (
            _sent(s) + _received(s) + 2 * _rows(s, s.hidden) + _combined(s) + _shared_output(s)
        ),
        "te/triton/permutation.py:163 and 419, mc/tensor_parallel/mappings.py:440 and 192, "
        "te/module/grouped_linear.py:188, mc/transformer/moe/token_dispatcher.py:803, "
        "mc/transformer/moe/moe_layer.py:645: shared experts before the dispatch",
    ),
    LayerMoment(
        "shared_experts_output",
        "moe",
        FEED_FORWARD,
        FORWARD,
        lambda s: (
            _sent(s) + _received(s) + _rows(s, s.hidden) + _returned(s) + _shared_fc2_outputs(s)
            if s.shared_ffn and s.overlaps_shared_experts
            else 0
        ),
        "mc/transformer/moe/token_dispatcher.py:838-846, shared_experts.py: linear_fc2_forward and "
        "post_forward_comm; mcore_bridge/tuners/lora.py:485-486",
        ("gated_shared_output",),
    ),
    LayerMoment(
        "adapted_expert_fc1",
        "moe",
        FEED_FORWARD,
        FORWARD,
        lambda s: (
            s.lora * (_sent(s) + _received(s) + 2 * _rows(s, 2 * s.expert_ffn) + _shared_output(s))
        ),
        "mcore_bridge/tuners/lora.py:485-486: outputs of the layer and of the adapter, their sum",
        ("expert_activation",),
    ),
    LayerMoment(
        "adapted_expert_fc2",
        "moe",
        FEED_FORWARD,
        FORWARD,
        lambda s: s.lora * (_sent(s) + _received(s) + 3 * _rows(s, s.hidden) + _shared_output(s)),
        "mcore_bridge/tuners/lora.py:485-486",
        still=("expert_activation",),
    ),
    LayerMoment(
        "expert_fc2_backward",
        "moe",
        FEED_FORWARD,
        BACKWARD,
        lambda s: (
            _rows(s, s.hidden + s.expert_ffn)
            + _weight_gradient(s, s.local_experts * s.expert_ffn * s.hidden)
        ),
        "te/module/grouped_linear.py:393 and 428",
        later=_SHARED,
    ),
    LayerMoment(
        "expert_activation_backward",
        "moe",
        FEED_FORWARD,
        BACKWARD,
        lambda s: _rows(s, 3 * s.expert_ffn),
        "mc/fusions/fused_bias_swiglu.py:97, te/module/grouped_linear.py:393",
        ("expert_activation",),
        later=_SHARED,
    ),
    LayerMoment(
        "expert_fc1_backward",
        "moe",
        FEED_FORWARD,
        BACKWARD,
        lambda s: (
            _rows(s, 2 * s.expert_ffn + s.hidden)
            + _weight_gradient(s, s.local_experts * 2 * s.expert_ffn * s.hidden)
        ),
        "te/module/grouped_linear.py:393 and 428",
        _EXPERT_ACTIVATIONS,
        later=_SHARED,
    ),
    LayerMoment(
        "shared_experts_backward",
        "moe",
        FEED_FORWARD,
        BACKWARD,
        lambda s: s.tokens * 3 * s.shared_ffn * BF16 + _gathered(s) if s.shared_ffn else 0,
        "mc/fusions/fused_bias_swiglu.py:67, te/module/linear.py:723",
        ("expert_input", *_EXPERT_ACTIVATIONS),
    ),
    LayerMoment(
        "mlp_output",
        "dense",
        FEED_FORWARD,
        FORWARD,
        lambda s: s.sharded_tokens * s.hidden * BF16 * (1 + 2 * s.lora),
        "te/module/linear.py:358",
    ),
    LayerMoment(
        "adapted_mlp_fc1",
        "dense",
        FEED_FORWARD,
        FORWARD,
        lambda s: s.lora * s.tokens * 4 * s.ffn * BF16,
        "mcore_bridge/tuners/lora.py:485-486",
        ("mlp_activation",),
    ),
    LayerMoment(
        "mlp_activation_backward",
        "dense",
        FEED_FORWARD,
        BACKWARD,
        lambda s: s.tokens * 3 * s.ffn * BF16 + _weight_gradient(s, s.ffn * s.hidden),
        "mc/fusions/fused_bias_swiglu.py:67, te/module/linear.py:723 and 884",
        ("mlp_activation",),
    ),
    LayerMoment(
        "mlp_fc1_backward",
        "dense",
        FEED_FORWARD,
        BACKWARD,
        lambda s: (
            s.tokens * 2 * s.ffn * BF16 + _gathered(s) + _weight_gradient(s, 2 * s.ffn * s.hidden)
        ),
        "te/module/layernorm_linear.py: backward",
        _MLP_ACTIVATIONS,
    ),
    LayerMoment(
        "core_attention_backward",
        "any",
        ATTENTION,
        BACKWARD,
        lambda s: _attention_gradients(s) + _attention_workspace(s),
        "te/cpp_extensions/fused_attn.py:513, te dot_product_attention/context_parallel.py:2205",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerActivations:
    """Bytes of one layer and one microbatch under a choice of recomputation.

    `recomputed` and `transient` are those of the layer's worst moment, `moment`; the latter may be
    negative, where much that the layer keeps is gone by then.
    """

    saved: float  # kept until the backward pass
    recomputed: float  # built again for the backward pass, one layer at a time
    transient: float  # for a moment, beside all that
    moment: str
    in_forward: bool  # whether that is in the forward pass, and not in one that is done again
    maps: float  # that the token dispatcher holds of the last microbatch
    checkpoint: float  # input of what is recomputed as a whole, and as much for its gradient


@dataclass(frozen=True, slots=True)
class _Split:
    """The tensors of a layer under a choice of recomputation."""

    sizes: dict[str, float]
    given_up: frozenset[str]
    whole: bool  # whether the feed-forward part is built again from its input
    again: dict[str, float]  # bytes that each part builds again
    kept_feed_forward: float

    def at(self, moment: LayerMoment, shape: LayerShape, *, full: bool) -> tuple[float, float]:
        """Bytes built again and bytes besides, at a moment."""
        freed = [(self.sizes[name], name in self.given_up) for name in moment.freed]
        buffers = moment.bytes(shape) - sum(size for size, again in freed if not again)
        if moment.part == ATTENTION:
            return self.again[ATTENTION], buffers - self.kept_feed_forward
        if moment.direction == FORWARD and not self.whole:
            return self._given_up(moment.still), buffers
        built = self.again[FEED_FORWARD] + self.again[ATTENTION] * full
        built -= sum(size for size, again in freed if again)
        return built - (0 if self.whole else self._given_up(moment.later)), buffers

    def _given_up(self, names: tuple[str, ...]) -> float:
        return sum(self.sizes[name] for name in names if name in self.given_up)


def _split(shape: LayerShape, recompute: Recompute, *, full: bool) -> _Split:
    modules, present = set(recompute.modules), tensors_of(shape)
    given_up = frozenset(
        tensor.id for tensor, _ in present if full or not modules.isdisjoint(tensor.given_up_by)
    )
    again = {ATTENTION: 0.0, FEED_FORWARD: 0.0}
    kept_feed_forward = 0.0
    for tensor, size in present:
        if tensor.id in given_up:
            again[tensor.part] += size if tensor.id != CHECKPOINTED else 0
        elif tensor.part == FEED_FORWARD:
            kept_feed_forward += size
    return _Split(
        sizes={tensor.id: size for tensor, size in present},
        given_up=given_up,
        whole=full or recompute.feed_forward(shape.is_moe),
        again=again,
        kept_feed_forward=kept_feed_forward,
    )


def layer_activations(shape: LayerShape, recompute: Recompute, *, full: bool) -> LayerActivations:
    """What a layer keeps and needs: `full` says that this layer is checkpointed as a whole."""
    if "shared_experts" in recompute.modules:  # the planner then emits no overlap of them
        shape = replace(shape, overlaps_shared_experts=False)
    split = _split(shape, recompute, full=full)
    checkpoint = float(shape.sharded_tokens * shape.hidden * BF16)
    kept = sum(size for name, size in split.sizes.items() if name not in split.given_up)
    saved = checkpoint if full else kept + core_attention_input(shape, recompute)
    kinds = ("any", "moe" if shape.is_moe else "dense")
    moments = [(each, split.at(each, shape, full=full)) for each in MOMENTS if each.kind in kinds]
    worst, (recomputed, transient) = max(moments, key=lambda moment: sum(moment[1]))
    return LayerActivations(
        saved=saved,
        recomputed=recomputed,
        transient=transient,
        moment=worst.id,
        in_forward=worst.direction == FORWARD and not split.whole,
        maps=held_maps_bytes(shape),
        checkpoint=checkpoint,
    )


def dispatch_bytes(shape: LayerShape) -> float:
    """Bytes of the buffers around the experts' products in a forward pass."""
    return _sent(shape) + _received(shape) + 2 * _rows(shape, shape.hidden)


def feed_forward_gradients_bytes(shape: LayerShape) -> float:
    """Bytes of the gradients of routed experts, or of a dense layer, where they are not fused."""
    if shape.is_moe:
        return _weight_gradient(shape, shape.local_experts * 3 * shape.expert_ffn * shape.hidden)
    return _weight_gradient(shape, 3 * shape.ffn * shape.hidden)
