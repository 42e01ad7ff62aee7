"""Seconds that one rank computes: GEMMs, attention and memory traffic by shape, and launch times.

FLOPs of a GEMM are 2 m n k; of causal attention half of the full square (Megatron-LM since commit
8873b55d6a); a backward pass has twice the GEMMs and 2.5 times the attention of a forward pass.
A part of a layer takes as long as its kernels or as its launches, whichever is longer.
"""

from collections import Counter
from dataclasses import dataclass

from planner.activations import kept_bytes
from planner.efficiency import LaunchSeconds, Rates
from planner.layer_moments import dispatch_bytes
from planner.layer_shape import BF16, FP32, LayerShape
from planner.layout import Recompute
from planner.model_spec import GroupedQueryAttention, LayerKind, ModelSpec
from planner.parts import LinearKind, Part, Sharding, layer_parts
from planner.workload import Workload

BACKWARD_OVER_FORWARD_GEMM = 2.0
# Q K^T again, dV, dP, dQ, dK over QK^T and PV: 5 products for 2 (Dao et al., FlashAttention-2,
# arXiv 2307.08691, section 3.1).
BACKWARD_OVER_FORWARD_ATTENTION = 2.5
# Every kept tensor is written once and read once.
TRAFFIC_OVER_SAVED_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSeconds:
    """Forward and backward of one part of a layer (attention, or feed-forward)."""

    forward: float
    backward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSeconds:
    """Compute of one layer and microbatch."""

    is_moe: bool
    attention: PartSeconds
    feed_forward: PartSeconds
    up_projections: float  # forward of MLA's up projections
    activation: float  # forward of the experts' activation function

    @property
    def forward(self) -> float:
        """Seconds of the forward pass."""
        return self.attention.forward + self.feed_forward.forward

    @property
    def backward(self) -> float:
        """Seconds of the backward pass, recomputation apart."""
        return self.attention.backward + self.feed_forward.backward

    def recompute(self, recompute: Recompute, *, full: bool) -> float:
        """Seconds of the recomputation that the backward pass begins with."""
        if full:
            return self.forward
        seconds = {
            "core_attn": self.attention.forward / 2,
            "mla_up_proj": self.up_projections,
            "moe_act": self.activation,
        }
        again = self.feed_forward.forward if recompute.feed_forward(self.is_moe) else 0.0
        return again + sum(seconds.get(module, 0.0) for module in recompute.modules)


def core_attention_flops(
    model: ModelSpec, tokens: float, document_tokens: int, window: int | None = None
) -> float:
    """Forward FLOPs of causal attention of `tokens` tokens in documents of `document_tokens`.

    With a window a query sees no more than so many keys.
    """
    attention = model.attention
    if isinstance(attention, GroupedQueryAttention):
        width = 2 * attention.query_size
    else:
        width = attention.num_heads * (attention.qk_head_dim + attention.v_head_dim)
    keys = document_tokens / 2  # that a token sees, on average
    if window is not None and window < document_tokens:
        keys = window - window * window / (2 * document_tokens)
    return 2 * tokens * width * keys


def _gemm_flops(parts: list[Part], rows: float) -> float:
    return sum(
        2 * rows * part.linear[0] * part.linear[1] for part in parts if part.linear is not None
    )


def layer_flops(model: ModelSpec, kind: LayerKind, tokens: float, document_tokens: int) -> float:
    """Forward FLOPs of a whole layer: top-k experts, the router, causal attention."""
    flops = core_attention_flops(model, tokens, document_tokens, kind.window)
    for part in layer_parts(model, kind):
        if part.linear is None:
            flops += 2 * tokens * part.elements if part.id == "router" else 0
            continue
        in_features, out_features, _ = part.linear
        topk = model.moe.router_topk if model.moe and part.sharding is Sharding.EXPERT else 1
        flops += 2 * tokens * in_features * out_features * topk
    return flops


def head_flops(model: ModelSpec, tokens: float) -> float:
    """Forward FLOPs of the output layer."""
    return 2 * tokens * model.hidden_size * model.vocab_size


def model_flops(model: ModelSpec, workload: Workload) -> float:
    """FLOPs of the forward and backward pass of a step's samples, recomputation apart.

    Megatron-LM's convention since commit 8873b55d6a: causal attention halved, top-k experts, output
    layer included.
    """
    tokens, document = workload.seq_length, workload.document_tokens
    sample = head_flops(model, tokens) * (1 + workload.mtp_num_layers)
    kinds = Counter(model.layer_kinds)
    kinds[model.mtp_kind] += workload.mtp_num_layers
    sample += sum(
        number * layer_flops(model, kind, tokens, document) for kind, number in kinds.items()
    )
    return 3 * sample * workload.global_batch_size


class Compute:
    """Compute times of layers and ends, for one model on one GPU."""

    def __init__(
        self, model: ModelSpec, rates: Rates, launch: LaunchSeconds, *, fused_gradients: bool
    ) -> None:
        self._model, self._rates, self._launch = model, rates, launch
        # Without fused accumulation a weight gradient is written, read and added to the fp32 one.
        self._gradient_bytes = 2 * FP32 if fused_gradients else 2 * BF16 + 2 * FP32

    def layer(self, shape: LayerShape, tp: int, ep: int, document_tokens: int) -> LayerSeconds:
        """Seconds of one layer and microbatch of a rank."""
        parts = layer_parts(self._model, LayerKind(shape.is_moe))
        attention = [p for p in parts if not p.id.startswith(("mlp.", "experts.", "shared_", "ro"))]
        experts = [p for p in parts if p.sharding is Sharding.EXPERT]
        others = [p for p in parts if p.id.startswith(("mlp.", "shared_"))]
        return LayerSeconds(
            is_moe=shape.is_moe,
            attention=self._attention(shape, attention, tp, document_tokens),
            feed_forward=self._feed_forward(shape, experts, others, tp, ep),
            up_projections=_gemm_flops([p for p in attention if "_up_" in p.id], shape.tokens)
            / tp
            / self._rates.gemm,
            activation=shape.routed_rows * 3 * shape.expert_ffn * BF16 / self._rates.memory,
        )

    def _attention(
        self, shape: LayerShape, parts: list[Part], tp: int, document_tokens: int
    ) -> PartSeconds:
        sharded = [part for part in parts if part.sharding is Sharding.TENSOR]
        whole = [p for p in parts if p.linear and p.linear[2] is LinearKind.DUPLICATED]
        gemm = (
            _gemm_flops(sharded, shape.tokens) / tp + _gemm_flops(whole, shape.sharded_tokens)
        ) / self._rates.gemm
        core = core_attention_flops(self._model, shape.tokens, document_tokens, shape.window) / tp
        traffic = TRAFFIC_OVER_SAVED_BYTES * _attention_bytes(shape) / self._rates.memory
        weights = sum(part.elements for part in sharded) / tp
        return self._part(
            gemm,
            core / self._rates.attention_forward,
            BACKWARD_OVER_FORWARD_ATTENTION * core / self._rates.attention_backward,
            traffic,
            weights,
            self._launch.attention,
        )

    def _feed_forward(
        self, shape: LayerShape, experts: list[Part], others: list[Part], tp: int, ep: int
    ) -> PartSeconds:
        etp_shards = 1
        if shape.expert_ffn and self._model.moe:
            etp_shards = self._model.moe.ffn_hidden_size // shape.expert_ffn
        gemm = _gemm_flops(others, shape.tokens) / tp / self._rates.gemm
        gemm += _gemm_flops(experts, shape.routed_rows) / etp_shards / self._rates.grouped_gemm
        moved = kept_bytes(shape) - _attention_bytes(shape)
        if shape.is_moe:
            moved += dispatch_bytes(shape)
        weights = sum(part.elements for part in others) / tp
        weights += sum(part.elements for part in experts) / (ep * etp_shards)
        launch = self._launch.dense_mlp
        if shape.is_moe:
            local = shape.experts // ep
            launch = self._launch.moe + local * self._launch.moe_per_local_expert
        traffic = TRAFFIC_OVER_SAVED_BYTES * moved / self._rates.memory
        return self._part(gemm, 0.0, 0.0, traffic, weights, launch)

    def _part(
        self,
        gemm: float,
        core_forward: float,
        core_backward: float,
        traffic: float,
        weights: float,
        launch: float,
    ) -> PartSeconds:
        accumulation = weights * self._gradient_bytes / self._rates.memory
        backward = BACKWARD_OVER_FORWARD_GEMM * (gemm + traffic) + core_backward + accumulation
        return PartSeconds(
            forward=max(gemm + core_forward + traffic, launch),
            backward=max(backward, 2 * launch),
        )

    def head(self, tokens: int, tp: int) -> PartSeconds:
        """Output layer and cross entropy of a microbatch."""
        gemm = head_flops(self._model, tokens) / tp / self._rates.gemm
        logits = tokens * self._model.vocab_size / tp
        traffic = logits * (BF16 + 4 * FP32) / self._rates.memory
        return PartSeconds(
            forward=gemm + traffic, backward=BACKWARD_OVER_FORWARD_GEMM * gemm + traffic
        )

    def optimizer(self, elements: float) -> float:
        """Adam on `elements` fp32 states: reads and writes weights and moments, reads gradients."""
        return elements * (6 * FP32 + FP32 + BF16) / self._rates.memory

    def gradient_housekeeping(self, trainable: int) -> float:
        """Zeroing the gradient buffer and reading it for the norm."""
        return trainable * 2 * FP32 / self._rates.memory


def _attention_bytes(shape: LayerShape) -> float:
    hidden = 2 * shape.sharded_tokens * shape.hidden
    return (hidden + shape.tokens * (3 * shape.query + 3 * shape.key_value)) * BF16
