"""What one decoder layer keeps for its backward pass.

`SAVED` lists every tensor that autograd keeps, in the order of the forward pass, with the module of
`recompute_modules` that gives it up. Read off memory traces of real ranks (megatron-core 0.18.1,
Transformer Engine 2.12.0, mcore-bridge 1.6.5, one H100, 2026-11-24); the source of each names the
line that allocates. mc = megatron/core, te = transformer_engine/pytorch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from planner.layer_shape import BF16, BOOL, FP32, INT32, LayerShape
from planner.layout import Recompute

Bytes = Callable[[LayerShape], float]

ATTENTION = "attention"
FEED_FORWARD = "feed_forward"


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor that a layer keeps: its bytes, which layers have it, which modules give it up.

    `part` says until when it lives: those of the feed-forward part are gone when the backward pass
    comes to attention.
    """

    id: str
    kind: str  # gqa | mla | any | dense | moe
    part: str
    bytes: Bytes
    source: str
    given_up_by: tuple[str, ...] = ()


SAVED: tuple[SavedTensor, ...] = (
    SavedTensor(
        "input_layernorm_output",
        "gqa",
        ATTENTION,
        lambda s: in_fp8(s, s.sharded_tokens * s.hidden * BF16),
        "te/module/layernorm_linear.py:221",
    ),
    SavedTensor(
        "input_layernorm_output",
        "mla",
        ATTENTION,
        lambda s: s.sharded_tokens * s.hidden * BF16,
        "te/ops/basic/rmsnorm.py:187",
        ("layernorm",),
    ),
    SavedTensor(
        "query_key_before_norm",
        "gqa",
        ATTENTION,
        lambda s: s.tokens * s.normed * BF16,
        "mc/transformer/attention.py:1634, te/ops/basic/rmsnorm.py:182",
    ),
    SavedTensor(
        "query_key_value",
        "gqa",
        ATTENTION,
        lambda s: s.tokens * (s.query + 2 * s.key_value) * BF16,
        "mc/models/common/embeddings/rope_utils.py:126, te dot_product_attention/utils.py:2034; "
        "with CP te dot_product_attention/context_parallel.py:1547",
    ),
    SavedTensor(
        "rotary_cosine_sine",
        "any",
        ATTENTION,
        lambda s: 4 * s.tokens * s.head_dim * BF16,
        "mcore_bridge/model/modules/transformer_layer.py:288-289",
    ),
    SavedTensor(
        "latents",
        "mla",
        ATTENTION,
        lambda s: s.sharded_tokens * _latent_elements(s) * BF16,
        "te/module/linear.py:324, te/module/base.py:1075",
    ),
    SavedTensor(
        "normed_latents",
        "mla",
        ATTENTION,
        lambda s: s.sharded_tokens * _latent_elements(s) * BF16,
        "te/module/layernorm_linear.py:221",
        ("mla_up_proj",),
    ),
    SavedTensor(
        "query_key",
        "mla",
        ATTENTION,
        lambda s: s.tokens * 2 * s.query * BF16,
        "mcore_bridge/model/modules/multi_latent_attention.py:165, 173",
        ("mla_up_proj",),
    ),
    SavedTensor(
        "value",
        "mla",
        ATTENTION,
        lambda s: s.tokens * s.value * BF16,
        "mcore_bridge/model/modules/multi_latent_attention.py:248: padded to the width of keys",
    ),
    SavedTensor(
        "attention_output",
        "gqa",
        ATTENTION,
        lambda s: s.tokens * (s.query * BF16 + s.heads * FP32),
        "te/cpp_extensions/fused_attn.py:307: output and log-sum-exp",
    ),
    SavedTensor(
        "attention_output",
        "mla",
        ATTENTION,
        lambda s: s.tokens * (s.value * BF16 + s.heads * FP32),
        "te/cpp_extensions/fused_attn.py:307: output, as wide as values, and log-sum-exp",
        ("core_attn",),
    ),
    SavedTensor(
        "projection_input",
        "mla",
        ATTENTION,
        lambda s: s.tokens * s.key_value * BF16 if s.pads_values else 0,
        "mcore_bridge/model/modules/multi_latent_attention.py:284: the output without its padding",
    ),
    SavedTensor(
        "attention_output_in_fp8",
        "any",
        ATTENTION,
        lambda s: s.tokens * s.attention_output * (s.fp8_input_bytes or 0),
        "te/module/linear.py: the quantized input of linear_proj, beside what attention keeps",
    ),
    SavedTensor(
        "layer_input",
        "any",
        ATTENTION,
        lambda s: s.sharded_tokens * s.hidden * BF16,
        "mc/fusions/fused_bias_dropout.py:58, or what the stage before sent",
    ),
    SavedTensor(
        "attention_residual",
        "any",
        ATTENTION,
        lambda s: s.sharded_tokens * s.hidden * BF16,
        "mc/fusions/fused_bias_dropout.py:58",
    ),
    SavedTensor(
        "pre_mlp_layernorm_output",
        "dense",
        FEED_FORWARD,
        lambda s: in_fp8(s, s.sharded_tokens * s.hidden * BF16),
        "te/module/layernorm_linear.py:221",
        ("mlp",),
    ),
    SavedTensor(
        "mlp_fc1_output",
        "dense",
        FEED_FORWARD,
        lambda s: s.tokens * 2 * s.ffn * BF16,
        "te/cpp_extensions/gemm.py:197",
        ("mlp",),
    ),
    SavedTensor(
        "mlp_activation",
        "dense",
        FEED_FORWARD,
        lambda s: in_fp8(s, s.tokens * s.ffn * BF16),
        "mc/fusions/fused_bias_swiglu.py:26",
        ("mlp",),
    ),
    SavedTensor(
        "pre_mlp_layernorm_output",
        "moe",
        FEED_FORWARD,
        lambda s: s.sharded_tokens * s.hidden * BF16,
        "te/ops/basic/rmsnorm.py:187",
        ("layernorm",),
    ),
    SavedTensor(
        "router_scores",
        "moe",
        FEED_FORWARD,
        lambda s: s.sharded_tokens * s.experts * 2 * FP32,
        "mc/transformer/moe/moe_utils.py:795 and 879, or 802 and 881",
        ("moe",),
    ),
    SavedTensor(
        "routing_maps",
        "moe",
        FEED_FORWARD,
        lambda s: s.sharded_tokens * (s.experts * (BOOL + 2 * INT32) + INT32),
        "mc/transformer/moe/moe_utils.py:837, te/triton/permutation.py:52",
        ("moe",),
    ),
    SavedTensor(
        "expert_input",
        "moe",
        FEED_FORWARD,
        lambda s: in_fp8(s, s.routed_rows * s.hidden * BF16),
        "te/triton/permutation.py:419",
        ("moe",),
    ),
    SavedTensor(
        "expert_fc1_output",
        "moe",
        FEED_FORWARD,
        lambda s: s.routed_rows * 2 * s.expert_ffn * BF16,
        "te/module/grouped_linear.py:188",
        ("moe",),
    ),
    SavedTensor(
        "expert_activation",
        "moe",
        FEED_FORWARD,
        lambda s: in_fp8(s, s.routed_rows * s.expert_ffn * BF16),
        "mc/fusions/fused_bias_swiglu.py:48",
        ("moe", "moe_act"),
    ),
    SavedTensor(
        "shared_experts_input",
        "moe",
        FEED_FORWARD,
        lambda s: (
            s.tokens * s.hidden * BF16
            if s.shared_ffn and s.gathers and s.overlaps_shared_experts
            else 0
        ),
        "mc/tensor_parallel/mappings.py:141: gathered, where shared experts overlap the dispatch",
        ("moe", "shared_experts"),
    ),
    SavedTensor(
        "shared_experts",
        "moe",
        FEED_FORWARD,
        lambda s: s.tokens * 3 * s.shared_ffn * BF16,
        "te/cpp_extensions/gemm.py:197, mc/fusions/fused_bias_swiglu.py:26",
        ("moe", "shared_experts"),
    ),
    SavedTensor(
        "gated_shared_output",
        "moe",
        FEED_FORWARD,
        lambda s: s.sharded_tokens * s.hidden * BF16 if s.gates_shared_experts else 0,
        "mc/tensor_parallel/mappings.py:181 or mcore_bridge/tuners/lora.py:486: before its gate",
        ("moe", "shared_experts"),
    ),
    SavedTensor(
        "adapted_attention",
        "any",
        ATTENTION,
        lambda s: s.sharded_tokens * s.adapter_rank * _attention_adapters(s) * BF16,
        "mcore_bridge/tuners/lora.py:474-478: what each lora_A gives, kept by lora_B",
    ),
    SavedTensor(
        "adapted_mlp",
        "dense",
        FEED_FORWARD,
        lambda s: s.sharded_tokens * s.adapter_rank * 2 * BF16,
        "mcore_bridge/tuners/lora.py:474-478",
        ("mlp",),
    ),
    SavedTensor(
        "adapted_experts",
        "moe",
        FEED_FORWARD,
        lambda s: s.routed_rows * s.adapter_rank * 2 * BF16,
        "mcore_bridge/tuners/lora.py:474-478",
        ("moe",),
    ),
    SavedTensor(
        "adapted_shared_experts",
        "moe",
        FEED_FORWARD,
        lambda s: (
            (s.tokens if s.overlaps_shared_experts else s.sharded_tokens)
            * (s.adapter_rank * 2 * BF16 if s.shared_ffn else 0)
        ),
        "mcore_bridge/tuners/lora.py:474-478",
        ("moe", "shared_experts"),
    ),
)


def _attention_adapters(shape: LayerShape) -> int:
    """Adapted layers of attention: qkv and proj, or those of latents."""
    if shape.latent is None:
        return 2
    return 4 if shape.latent.q_lora_rank is None else 5


def _latent_elements(shape: LayerShape) -> int:
    """Elements a token of what the up projections get, before or after its norm."""
    latent = shape.latent
    assert latent is not None
    return (latent.q_lora_rank or 0) + latent.kv_lora_rank


def in_fp8(shape: LayerShape, size: float) -> float:
    """Bytes of the input of a linear layer, kept for its weight's gradient: in fp8 it is kept
    quantized, in one direction (te/module/grouped_linear.py:218). LoRA keeps it for the adapter."""
    return size if shape.fp8_input_bytes is None else size * shape.fp8_input_bytes / BF16


def tensors_of(shape: LayerShape) -> list[tuple[SavedTensor, float]]:
    """The tensors that a layer of this shape has, with their bytes."""
    attention = "gqa" if shape.latent is None else "mla"
    kinds = (attention, "any", "moe" if shape.is_moe else "dense")
    return [(tensor, tensor.bytes(shape)) for tensor in SAVED if tensor.kind in kinds]


def kept_bytes(shape: LayerShape) -> float:
    """Bytes that a layer keeps when nothing is recomputed."""
    return sum(size for _, size in tensors_of(shape))


def held_maps_bytes(shape: LayerShape) -> float:
    """Bytes that the token dispatcher of a layer holds of its last microbatch until the next.

    Its `probs`, `routing_map` and `reversed_local_input_permutation_mapping` (megatron-core 0.18.1,
    transformer/moe/token_dispatcher.py: dispatch_preprocess).
    """
    if not shape.is_moe:
        return 0.0
    of_experts = shape.experts * (FP32 + BOOL + 2 * INT32)
    return float(shape.sharded_tokens * (of_experts + INT32))


def core_attention_input(shape: LayerShape, recompute: Recompute) -> float:
    """Bytes of the whole qkv tensor, kept besides q and k when core_attn is recomputed; v is a view
    of it, else a copy.

    Fused attention saves nothing that this could give up: it costs memory. Source: trace of a rank
    with recompute_modules core_attn (te/cpp_extensions/gemm.py:197 by layernorm_linear).
    """
    if "core_attn" not in recompute.modules or shape.latent is not None:
        return 0.0
    return float(shape.tokens * (shape.query + shape.key_value) * BF16)
