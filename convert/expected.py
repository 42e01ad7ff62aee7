"""The tensors that a model has in Hugging Face's format, by name, with their shapes.

The names are those that mcore-bridge 1.6.5 writes (mcore_bridge/bridge/gpt_bridge.py and the
classes of mcore_bridge/model) and transformers 5.19 reads; tests hold them against both.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.model_spec import (
    GroupedQueryAttention,
    LayerKind,
    MixtureOfExperts,
    ModelSpec,
    MultiLatentAttention,
)

Shape = tuple[int, ...]
Shapes = Iterator[tuple[str, Shape]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a type of model calls the parts that not all types call the same."""

    block: str = "mlp"  # the sparse feed-forward part
    router: str = "gate"
    expert_bias: str = "gate.e_score_correction_bias"
    expert_bias_rows: bool = False  # [1, experts] instead of [experts]
    projections: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")  # of an expert
    packed_experts: bool = False  # one tensor for all experts, transposed
    shared: str = "shared_experts"
    # transformers 5.19 keeps it in fp32 (_keep_in_fp32_modules_strict of the model's class)
    fp32_router: bool = False


# By the model_type of config.json. Types that are not here are compared with a source only.
NAMES: dict[str, Names] = {
    "qwen2": Names(),
    "qwen3": Names(),
    "llama": Names(),
    "mistral": Names(),
    "mixtral": Names(block="block_sparse_moe", projections=("w1", "w3", "w2")),
    "qwen2_moe": Names(shared="shared_expert"),
    "qwen3_moe": Names(),
    "olmoe": Names(),
    "deepseek_v2": Names(),
    "deepseek_v3": Names(),
    "kimi_k2": Names(),
    "glm4_moe": Names(),
    "minimax_m2": Names(
        block="block_sparse_moe",
        expert_bias="e_score_correction_bias",
        projections=("w1", "w3", "w2"),
    ),
    "ernie4_5_moe": Names(
        expert_bias="moe_statics.e_score_correction_bias", expert_bias_rows=True, fp32_router=True
    ),
    "gpt_oss": Names(router="router", packed_experts=True),
}


def expected_shapes(model: ModelSpec, *, mtp: bool = True) -> dict[str, Shape] | None:
    """Name and shape of every tensor of a model; None for a type whose names are not known.

    `mtp` is whether the layers for multi-token prediction that config.json names are there too.
    """
    names = NAMES.get(model.model_type)
    return None if names is None else dict(_model(model, names, mtp=mtp))


def mtp_prefixes(model: ModelSpec) -> list[str]:
    """How the names of the layers for multi-token prediction begin: they follow the decoder's."""
    layers = range(model.num_layers, model.num_layers + model.mtp_num_layers)
    return [f"model.layers.{layer}." for layer in layers]


def _model(model: ModelSpec, names: Names, *, mtp: bool) -> Shapes:
    hidden, vocabulary = model.hidden_size, (model.vocab_size, model.hidden_size)
    yield "model.embed_tokens.weight", vocabulary
    for layer, kind in enumerate(model.layer_kinds):
        yield from _layer(model, names, f"model.layers.{layer}.", kind)
    yield "model.norm.weight", (hidden,)
    if not model.tie_word_embeddings:
        yield "lm_head.weight", vocabulary
    for prefix in mtp_prefixes(model) if mtp else ():
        yield f"{prefix}embed_tokens.weight", vocabulary
        yield f"{prefix}enorm.weight", (hidden,)
        yield f"{prefix}hnorm.weight", (hidden,)
        yield f"{prefix}eh_proj.weight", (hidden, 2 * hidden)
        yield from _layer(model, names, prefix, model.mtp_kind)
        yield f"{prefix}shared_head.norm.weight", (hidden,)
        yield f"{prefix}shared_head.head.weight", vocabulary


def _layer(model: ModelSpec, names: Names, prefix: str, kind: LayerKind) -> Shapes:
    hidden = model.hidden_size
    yield f"{prefix}input_layernorm.weight", (hidden,)
    yield f"{prefix}post_attention_layernorm.weight", (hidden,)
    attention = f"{prefix}self_attn."
    if isinstance(model.attention, GroupedQueryAttention):
        yield from _grouped_query(attention, hidden, model.attention)
    else:
        yield from _multi_latent(attention, hidden, model.attention)
    if not kind.is_moe:
        yield from _feed_forward(f"{prefix}mlp.", hidden, model.dense_ffn_hidden_size)
        return
    assert model.moe is not None
    yield from _sparse(f"{prefix}{names.block}.", hidden, model.moe, names, model.linear_bias)


def _linear(name: str, outputs: int, inputs: int, *, bias: bool = False) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _grouped_query(prefix: str, hidden: int, attention: GroupedQueryAttention) -> Shapes:
    query, key_value = attention.query_size, attention.key_value_size
    yield from _linear(f"{prefix}q_proj", query, hidden, bias=attention.qkv_bias)
    yield from _linear(f"{prefix}k_proj", key_value, hidden, bias=attention.qkv_bias)
    yield from _linear(f"{prefix}v_proj", key_value, hidden, bias=attention.qkv_bias)
    yield from _linear(f"{prefix}o_proj", hidden, query, bias=attention.output_bias)
    if attention.qk_layernorm != "none":
        whole = attention.qk_layernorm == "full"
        yield f"{prefix}q_norm.weight", (query if whole else attention.head_dim,)
        yield f"{prefix}k_norm.weight", (key_value if whole else attention.head_dim,)
    if attention.sinks:
        yield f"{prefix}sinks", (attention.num_heads,)


def _multi_latent(prefix: str, hidden: int, attention: MultiLatentAttention) -> Shapes:
    heads, latent = attention.num_heads, attention.kv_lora_rank
    queries = heads * attention.qk_head_dim
    if attention.q_lora_rank is None:
        yield from _linear(f"{prefix}q_proj", queries, hidden)
    else:
        yield from _linear(f"{prefix}q_a_proj", attention.q_lora_rank, hidden)
        yield f"{prefix}q_a_layernorm.weight", (attention.q_lora_rank,)
        yield from _linear(f"{prefix}q_b_proj", queries, attention.q_lora_rank)
    compressed = latent + attention.qk_rope_head_dim
    yield from _linear(f"{prefix}kv_a_proj_with_mqa", compressed, hidden)
    yield f"{prefix}kv_a_layernorm.weight", (latent,)
    expanded = heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    yield from _linear(f"{prefix}kv_b_proj", expanded, latent)
    yield from _linear(f"{prefix}o_proj", hidden, heads * attention.v_head_dim)


def _feed_forward(
    prefix: str,
    hidden: int,
    ffn: int,
    projections: tuple[str, str, str] = Names().projections,
) -> Shapes:
    gate, up, down = projections
    yield from _linear(f"{prefix}{gate}", ffn, hidden)
    yield from _linear(f"{prefix}{up}", ffn, hidden)
    yield from _linear(f"{prefix}{down}", hidden, ffn)


def _sparse(prefix: str, hidden: int, moe: MixtureOfExperts, names: Names, bias: bool) -> Shapes:
    experts, ffn = moe.num_experts, moe.ffn_hidden_size
    yield from _linear(f"{prefix}{names.router}", experts, hidden, bias=bias)
    if moe.router_expert_bias:
        shape = (1, experts) if names.expert_bias_rows else (experts,)
        yield f"{prefix}{names.expert_bias}", shape
    if names.packed_experts:
        yield f"{prefix}experts.gate_up_proj", (experts, hidden, 2 * ffn)
        yield f"{prefix}experts.gate_up_proj_bias", (experts, 2 * ffn)
        yield f"{prefix}experts.down_proj", (experts, ffn, hidden)
        yield f"{prefix}experts.down_proj_bias", (experts, hidden)
    else:
        for expert in range(experts):
            one = f"{prefix}experts.{expert}."
            yield from _feed_forward(one, hidden, ffn, names.projections)
    if moe.shared_expert_intermediate_size:
        shared = moe.shared_expert_intermediate_size
        yield from _feed_forward(f"{prefix}{names.shared}.", hidden, shared)
        if moe.shared_expert_gate:
            yield f"{prefix}{names.shared}_gate.weight", (1, hidden)
