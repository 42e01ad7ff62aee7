"""Sizes of one microbatch in one layer on one rank, on which activations and compute depend."""

from dataclasses import dataclass

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
    hidden: int
    heads: int  # on this rank
    query: int  # elements of all query heads of a token on this rank
    key_value: int  # elements of its key heads; with MLA of its value heads
    ffn: int  # of the dense layer, on this rank
    expert_ffn: int  # of one routed expert, on this rank
    shared_ffn: int  # of the shared experts, on this rank
    gates_shared_experts: bool  # their output is scaled by a gate of its own
    experts: int  # of the whole layer
    head_dim: int  # elements of a head that turn with the position
    normed: int  # elements of q and k of a token that norms see on this rank
    latent: MultiLatentAttention | None
    dispatches: bool  # whether tokens leave the rank
    local_experts: int  # on this rank
    expert_tensor_parallel_size: int
    context_parallel_size: int
    gathers: bool  # with sequence parallelism: inputs of column-parallel layers are gathered
    overlaps_shared_experts: bool  # shared experts run beside the dispatch
    packed: bool  # several documents in a row, one after the other: THD
    flash_attention: bool  # by flash-attn, not by cuDNN
    lora: bool
    adapter_rank: int  # of LoRA, else 0
    fused_gradients: bool  # weight gradients are added in place, by apex's kernel
    fp8_input_bytes: float | None = None  # of a quantized input's element; None: it stays bf16

    @property
    def attention_output(self) -> int:
        """Elements of a token that linear_proj gets."""
        return self.query if self.latent is None else self.key_value

    @property
    def pads_values(self) -> bool:
        """Whether values are padded to the width of keys, as mcore-bridge does for packed batches
        (mcore-bridge 1.6.5, model/modules/multi_latent_attention.py:247)."""
        return self.packed and self.latent is not None and self.query != self.key_value

    @property
    def value(self) -> int:
        """Elements of a token's values as attention gets them."""
        return self.query if self.pads_values else self.key_value

    @property
    def keys_and_values(self) -> int:
        """Elements of a token's keys and values as attention gets them."""
        return (self.key_value if self.latent is None else self.query) + self.value


def _normed(attention: Attention, on_rank: int) -> int:
    """Elements of q and k that norms see: of a rank's heads, or all of them, gathered over TP
    (mcore-bridge 1.6.5, mcore_bridge/model/gpts/olmoe.py:57)."""
    if not isinstance(attention, GroupedQueryAttention) or attention.qk_layernorm == "none":
        return 0
    if attention.qk_layernorm == "full":
        return attention.query_size + attention.key_value_size
    return on_rank


def rotary_elements(attention: Attention) -> int:
    """Elements of a head that turn with the position."""
    if isinstance(attention, GroupedQueryAttention):
        return attention.head_dim
    return attention.qk_rope_head_dim


def _heads_on_rank(attention: Attention, tp: int) -> tuple[int, int]:
    """Elements of a token's queries, and of its keys; with MLA of its values."""
    heads = attention.num_heads // tp
    if isinstance(attention, MultiLatentAttention):
        return heads * attention.qk_head_dim, heads * attention.v_head_dim
    groups = max(1, attention.num_query_groups // tp)
    return heads * attention.head_dim, groups * attention.head_dim


def layer_shape(
    model: ModelSpec,
    *,
    kind: LayerKind,
    tokens: int,
    tp: int,
    ep: int,
    etp: int,
    cp: int = 1,
    imbalance: float,
    lora: bool,
    adapter_rank: int = 0,
    fused_gradients: bool = True,
    overlaps_shared_experts: bool = True,
    packed: bool = True,
    flash_attention: bool = False,
    fp8_input_bytes: float | None = None,
) -> LayerShape:
    """Sizes of a layer on a rank; `imbalance` is the busiest expert rank's load over the mean."""
    attention, moe = model.attention, model.moe
    sharded = -(-tokens // tp)
    query, key_value = _heads_on_rank(attention, tp)
    topk = moe.router_topk if moe and kind.is_moe else 0
    return LayerShape(
        is_moe=kind.is_moe,
        window=kind.window,
        tokens=tokens,
        sharded_tokens=sharded,
        routed_rows=sharded * topk * etp * imbalance,
        sent_rows=sharded * topk,
        hidden=model.hidden_size,
        heads=attention.num_heads // tp,
        query=query,
        key_value=key_value,
        ffn=model.dense_ffn_hidden_size // tp,
        expert_ffn=moe.ffn_hidden_size // etp if moe else 0,
        shared_ffn=moe.shared_expert_intermediate_size // tp if moe else 0,
        gates_shared_experts=moe.shared_expert_gate if moe else False,
        experts=moe.num_experts if moe else 0,
        head_dim=rotary_elements(attention),
        normed=_normed(attention, query + key_value),
        latent=attention if isinstance(attention, MultiLatentAttention) else None,
        dispatches=ep * etp > 1,
        local_experts=moe.num_experts // ep if moe else 0,
        expert_tensor_parallel_size=etp,
        context_parallel_size=cp,
        gathers=tp > 1,
        overlaps_shared_experts=overlaps_shared_experts,
        packed=packed,
        flash_attention=flash_attention,
        fused_gradients=fused_gradients,
        lora=lora,
        adapter_rank=adapter_rank,
        fp8_input_bytes=fp8_input_bytes,
    )
