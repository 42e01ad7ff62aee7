"""What one decoder layer keeps for its backward pass, and what it needs for a moment.

`SAVED` lists every tensor that autograd keeps, in the order of the forward pass, with the module of
`recompute_modules` that gives it up. Read off memory traces of real ranks (megatron-core 0.18.1,
Transformer Engine 2.12.0, one H100, 2026-11-24); the source of each names the line that allocates.
mc = megatron/core, te = transformer_engine/pytorch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from planner.layout import Recompute
from planner.model_spec import (
    Attention,
    GroupedQueryAttention,
    LayerKind,
    ModelSpec,
    MultiLatentAttention,
)

BF16, FP32, INT32, BOOL = 2, 4, 4, 1  # bytes of an element


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """Sizes of one microbatch in one layer on one rank, in tokens and elements."""

    is_moe: bool
    window: int | None  # tokens that a query sees back
    tokens: int  # that attention sees: micro_batch_size * seq_length / cp
    sharded_tokens: int  # with sequence parallelism: tokens / tp
    routed_rows: float  # rows that the rank's experts get, padding apart
    sent_rows: int  # rows that the rank sends: sharded_tokens * top-k
    sequence: int  # seq_length / cp
    hidden: int
    heads: int  # on this rank
    query: int  # elements of all query heads of a token on this rank
    key_value: int  # elements of its key heads; with MLA of its value heads
    ffn: int  # of the dense layer, on this rank
    expert_ffn: int  # of one routed expert, on this rank
    shared_ffn: int  # of the shared experts, on this rank
    experts: int  # of the whole layer
    head_dim: int  # of the rotary embedding
    normed: int  # elements of q and k of a token that norms see on this rank
    latent: MultiLatentAttention | None
    dispatches: bool  # whether tokens leave the rank
    lora: bool
    fp8_input_bytes: float | None = None  # of a quantized input's element; None: it stays bf16

    @property
    def keys_and_values(self) -> int:
        """Elements of all keys and values of a token on this rank."""
        return 2 * self.key_value if self.latent is None else self.query + self.key_value


Bytes = Callable[[LayerShape], float]


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor that a layer keeps: its bytes, which layers have it, which modules give it up."""

    id: str
    kind: str  # gqa | mla | any | dense | moe
    bytes: Bytes
    source: str
    given_up_by: tuple[str, ...] = ()


SAVED: tuple[SavedTensor, ...] = (
    SavedTensor(
        "input_layernorm_output",
        "gqa",
        lambda s: _of_trained(s, s.sharded_tokens * s.hidden * BF16),
        "te/module/layernorm_linear.py:221",
    ),
    SavedTensor(
        "input_layernorm_output",
        "mla",
        lambda s: s.sharded_tokens * s.hidden * BF16,
        "te/ops/basic/rmsnorm.py:187",
        ("layernorm",),
    ),
    SavedTensor(
        "query_key_before_norm",
        "gqa",
        lambda s: s.tokens * s.normed * BF16,
        "mc/transformer/attention.py:1634, te/ops/basic/rmsnorm.py:182",
    ),
    SavedTensor(
        "query_key_value",
        "gqa",
        lambda s: s.tokens * (s.query + 2 * s.key_value) * BF16,
        "mc/models/common/embeddings/rope_utils.py:126, te dot_product_attention/utils.py:2034",
    ),
    SavedTensor(
        "rotary_cosine_sine",
        "gqa",
        lambda s: 4 * s.sequence * s.head_dim * BF16,
        "mc/models/common/embeddings/rope_utils.py:122",
    ),
    SavedTensor(
        "latents",
        "mla",
        lambda s: s.sharded_tokens * _latent_elements(s) * BF16,
        "te/module/linear.py:324, te/module/layernorm_linear.py:221, te/module/base.py:1075",
    ),
    SavedTensor(
        "query_key_value",
        "mla",
        lambda s: s.tokens * (2 * s.query + s.key_value) * BF16,
        "mc/transformer/multi_latent_attention.py:945-957",
        ("mla_up_proj",),
    ),
    SavedTensor(
        "attention_output",
        "gqa",
        lambda s: s.tokens * (s.query * BF16 + s.heads * FP32),
        "te/cpp_extensions/fused_attn.py:307: output and log-sum-exp",
    ),
    SavedTensor(
        "attention_output",
        "mla",
        lambda s: s.tokens * (s.key_value * BF16 + s.heads * FP32),
        "te/cpp_extensions/fused_attn.py:307: output and log-sum-exp",
    ),
    SavedTensor(
        "attention_output_in_fp8",
        "any",
        lambda s: s.tokens * _attention_output(s) * (s.fp8_input_bytes or 0),
        "te/module/linear.py: the quantized input of linear_proj, beside what attention keeps",
    ),
    SavedTensor(
        "attention_residual",
        "any",
        lambda s: s.sharded_tokens * s.hidden * BF16,
        "mc/fusions/fused_bias_dropout.py:58",
    ),
    SavedTensor(
        "pre_mlp_layernorm_output",
        "dense",
        lambda s: _of_trained(s, s.sharded_tokens * s.hidden * BF16),
        "te/module/layernorm_linear.py:221",
        ("mlp",),
    ),
    SavedTensor(
        "mlp_fc1_output",
        "dense",
        lambda s: s.tokens * 2 * s.ffn * BF16,
        "te/cpp_extensions/gemm.py:197",
        ("mlp",),
    ),
    SavedTensor(
        "mlp_activation",
        "dense",
        lambda s: _of_trained(s, s.tokens * s.ffn * BF16),
        "mc/fusions/fused_bias_swiglu.py:26",
        ("mlp",),
    ),
    SavedTensor(
        "pre_mlp_layernorm_output",
        "moe",
        lambda s: s.sharded_tokens * s.hidden * BF16,
        "te/ops/basic/rmsnorm.py:187",
        ("layernorm",),
    ),
    SavedTensor(
        "router_scores",
        "moe",
        lambda s: s.sharded_tokens * s.experts * 2 * FP32,
        "mc/transformer/moe/moe_utils.py:836, 879",
        ("moe",),
    ),
    SavedTensor(
        "routing_maps",
        "moe",
        lambda s: s.sharded_tokens * (s.experts * (BOOL + 2 * INT32) + INT32),
        "mc/transformer/moe/moe_utils.py:837, te/triton/permutation.py:52",
    ),
    SavedTensor(
        "expert_input",
        "moe",
        lambda s: _of_trained(s, s.routed_rows * s.hidden * BF16),
        "te/triton/permutation.py:419",
        ("moe",),
    ),
    SavedTensor(
        "expert_fc1_output",
        "moe",
        lambda s: s.routed_rows * 2 * s.expert_ffn * BF16,
        "te/module/grouped_linear.py:188",
        ("moe",),
    ),
    SavedTensor(
        "expert_activation",
        "moe",
        lambda s: _of_trained(s, s.routed_rows * s.expert_ffn * BF16),
        "mc/fusions/fused_bias_swiglu.py:48",
        ("moe", "moe_act"),
    ),
    SavedTensor(
        "shared_experts",
        "moe",
        lambda s: s.tokens * 3 * s.shared_ffn * BF16,
        "te/cpp_extensions/gemm.py:197, mc/fusions/fused_bias_swiglu.py:26",
        ("moe", "shared_experts"),
    ),
    SavedTensor(
        "mlp_residual",
        "any",
        lambda s: s.sharded_tokens * s.hidden * BF16,
        "mc/fusions/fused_bias_dropout.py:58",
    ),
    SavedTensor(
        "lora_dropped_attention_inputs",
        "any",
        lambda s: _dropped(s.sharded_tokens * s.hidden + s.tokens * s.query) if s.lora else 0,
        "mcore_bridge/tuners/lora.py: lora_dropout of linear_qkv and linear_proj",
    ),
    SavedTensor(
        "lora_dropped_mlp_inputs",
        "dense",
        lambda s: _dropped(s.sharded_tokens * s.hidden + s.tokens * s.ffn) if s.lora else 0,
        "mcore_bridge/tuners/lora.py: lora_dropout of linear_fc1 and linear_fc2",
        ("mlp",),
    ),
    SavedTensor(
        "lora_dropped_expert_inputs",
        "moe",
        lambda s: _dropped(s.routed_rows * (s.hidden + s.expert_ffn)) if s.lora else 0,
        "mcore_bridge/tuners/lora.py: lora_dropout of the grouped linear layers",
        ("moe",),
    ),
)


def _latent_elements(shape: LayerShape) -> int:
    """Elements a token: outputs of the down projections, their norms, the contiguous KV latent."""
    latent = shape.latent
    assert latent is not None
    queries = 2 * latent.q_lora_rank if latent.q_lora_rank else 0
    return queries + 3 * latent.kv_lora_rank + latent.qk_rope_head_dim


def _attention_output(shape: LayerShape) -> int:
    """Elements a token of the attention's output."""
    return shape.query if shape.latent is None else shape.key_value


def _of_trained(shape: LayerShape, size: float) -> float:
    """Bytes of the input of a linear layer, kept for its weight's gradient: not under LoRA.

    A frozen weight has no gradient; the adapter keeps its own input, after dropout. In fp8 the
    input is kept quantized, in one direction (te/module/grouped_linear.py:218).
    """
    if shape.fp8_input_bytes is not None:
        size *= shape.fp8_input_bytes / BF16
    return 0 if shape.lora else size


def _dropped(elements: float) -> float:
    """Bytes of a dropout's output and its mask (torch.nn.functional.dropout keeps both)."""
    return elements * (BF16 + BOOL)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerActivations:
    """Bytes of one layer and one microbatch under a choice of recomputation."""

    saved: float  # kept until the backward pass
    recomputed: float  # built again for the backward pass, one layer at a time
    maps: float  # routing maps, which outlive the layer's recomputation
    checkpoint: float  # input of a fully recomputed layer, and as much for its gradient
    transient: float  # for a moment, beside all that


def layer_activations(shape: LayerShape, recompute: Recompute, *, full: bool) -> LayerActivations:
    """What a layer keeps: `full` says that this layer is checkpointed as a whole."""
    attention = "gqa" if shape.latent is None else "mla"
    kinds = (attention, "any", "moe" if shape.is_moe else "dense")
    present = [(tensor, tensor.bytes(shape)) for tensor in SAVED if tensor.kind in kinds]
    everything = sum(size for _, size in present)
    maps = sum(size for tensor, size in present if tensor.id == "routing_maps")
    checkpoint = shape.sharded_tokens * shape.hidden * BF16
    if full:
        saved, recomputed = float(checkpoint), everything
    else:
        modules = set(recompute.modules)
        recomputed = sum(
            size for tensor, size in present if not modules.isdisjoint(tensor.given_up_by)
        )
        saved = everything - recomputed + _core_attention_input(shape, modules)
    return LayerActivations(
        saved=saved,
        recomputed=recomputed,
        maps=maps,
        checkpoint=checkpoint,
        transient=max(_forward_transient(shape), _backward_transient(shape)),
    )


def _core_attention_input(shape: LayerShape, modules: set[str]) -> float:
    """The whole qkv tensor, kept besides q, k and v when core_attn is recomputed.

    Fused attention saves nothing that this could give up: it costs memory. Source: trace of a rank
    with recompute_modules core_attn (te/cpp_extensions/gemm.py:197 by layernorm_linear).
    """
    if "core_attn" not in modules or shape.latent is not None:
        return 0
    return shape.tokens * (shape.query + 2 * shape.key_value) * BF16


def _forward_transient(shape: LayerShape) -> float:
    """Buffers while the experts' output is put back in order, or the output of the dense layer.

    The permuted tokens, what all-to-all received, the experts' output and its sorted copy are alive
    together. Source: te/triton/permutation.py:163 and 419, mc/tensor_parallel/mappings.py:440,
    te/module/grouped_linear.py:188 in the trace at the peak.
    """
    if not shape.is_moe:
        return shape.sharded_tokens * shape.hidden * BF16
    received = 3 if shape.dispatches else 2
    return (shape.sent_rows + received * shape.routed_rows) * shape.hidden * BF16


def _backward_transient(shape: LayerShape) -> float:
    """Gradients at the activation function: of its output and of both its inputs.

    Source: mc/fusions/fused_bias_swiglu.py:67 and te/module/linear.py:723 in the trace at the peak.
    """
    if shape.is_moe:
        return shape.routed_rows * 3 * shape.expert_ffn * BF16
    return shape.tokens * 3 * shape.ffn * BF16


def _normed(attention: Attention, on_rank: int) -> int:
    """Elements of q and k that norms see: of a rank's heads, or all of them, gathered over TP
    (mcore-bridge 1.6.5, mcore_bridge/model/gpts/olmoe.py:57)."""
    if not isinstance(attention, GroupedQueryAttention) or attention.qk_layernorm == "none":
        return 0
    if attention.qk_layernorm == "full":
        return attention.query_size + attention.key_value_size
    return on_rank


def layer_shape(
    model: ModelSpec,
    *,
    kind: LayerKind,
    tokens: int,
    sequence: int,
    tp: int,
    ep: int,
    etp: int,
    imbalance: float,
    lora: bool,
    fp8_input_bytes: float | None = None,
) -> LayerShape:
    """Sizes of a layer on a rank; `imbalance` is the busiest expert rank's load over the mean."""
    attention, moe = model.attention, model.moe
    heads = attention.num_heads // tp
    sharded = -(-tokens // tp)
    if isinstance(attention, GroupedQueryAttention):
        query = heads * attention.head_dim
        key_value = max(1, attention.num_query_groups // tp) * attention.head_dim
        head_dim, latent = attention.head_dim, None
    else:
        query, key_value = heads * attention.qk_head_dim, heads * attention.v_head_dim
        head_dim, latent = attention.qk_rope_head_dim, attention
    topk = moe.router_topk if moe and kind.is_moe else 0
    return LayerShape(
        is_moe=kind.is_moe,
        window=kind.window,
        tokens=tokens,
        sharded_tokens=sharded,
        routed_rows=sharded * topk * etp * imbalance,
        sent_rows=sharded * topk,
        sequence=sequence,
        hidden=model.hidden_size,
        heads=heads,
        query=query,
        key_value=key_value,
        ffn=model.dense_ffn_hidden_size // tp,
        expert_ffn=moe.ffn_hidden_size // etp if moe else 0,
        shared_ffn=moe.shared_expert_intermediate_size // tp if moe else 0,
        experts=moe.num_experts if moe else 0,
        head_dim=head_dim,
        normed=_normed(attention, query + key_value),
        latent=latent,
        dispatches=ep * etp > 1,
        lora=lora,
        fp8_input_bytes=fp8_input_bytes,
    )
