"""The parts that models are made of, with their parameters, equal to what megatron-core builds.

The parts follow the Transformer Engine layer spec of megatron-core 0.16.1
(megatron/core/models/gpt/gpt_layer_specs.py) as mcore-bridge 1.6.5 builds it.
`tests/stack/test_parameters.py` holds every count against the real modules.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache

from planner.model_spec import (
    GatedDeltaNet,
    GroupedQueryAttention,
    LayerKind,
    ModelSpec,
    MultiLatentAttention,
    SparseIndexer,
)


class Sharding(Enum):
    """How a part is divided among the ranks of one pipeline stage."""

    TENSOR = "tensor"  # over TP
    REPLICATED = "replicated"  # whole on every rank
    EXPERT = "expert"  # over EP, and over ETP inside an expert


class LinearKind(Enum):
    """How a linear layer is parallel; decides the shapes of its LoRA adapter."""

    COLUMN = "column"
    ROW = "row"
    DUPLICATED = "duplicated"


@dataclass(frozen=True, slots=True)
class Part:
    """Some parameters of a model: `elements` of the whole, before any sharding.

    `linear` is (in_features, out_features, kind) when LoRA on all linear layers adapts it; for
    routed experts the shape is that of one expert and `copies` is their number. `indivisible`
    elements stay on one rank: a row of an embedding, whose rows are padded to a multiple of TP.
    """

    id: str
    elements: int
    sharding: Sharding
    linear: tuple[int, int, LinearKind] | None = None
    copies: int = 1
    indivisible: int = 1


def _linear(
    part_id: str, in_features: int, out_features: int, kind: LinearKind, *, bias: bool = False
) -> Iterator[Part]:
    sharding = Sharding.REPLICATED if kind is LinearKind.DUPLICATED else Sharding.TENSOR
    shape = (in_features, out_features, kind)
    yield Part(part_id, in_features * out_features, sharding, shape)
    if bias:  # of the whole output, which a row-parallel layer has on every rank
        whole = kind is LinearKind.ROW
        yield Part(
            f"{part_id}.bias", out_features, Sharding.REPLICATED if whole else Sharding.TENSOR
        )


def norm_part(part_id: str, size: int) -> Part:
    """An RMS norm."""
    return Part(part_id, size, Sharding.REPLICATED)


def _grouped_query_attention(hidden: int, attention: GroupedQueryAttention) -> Iterator[Part]:
    queries = attention.query_size * (2 if attention.output_gate else 1)
    qkv = queries + 2 * attention.key_value_size
    yield norm_part("input_layernorm", hidden)
    yield from _linear("linear_qkv", hidden, qkv, LinearKind.COLUMN, bias=attention.qkv_bias)
    if attention.qk_layernorm == "head":
        yield norm_part("qk_layernorm", 2 * attention.head_dim)
    elif attention.qk_layernorm == "full":
        yield norm_part("qk_layernorm", attention.query_size + attention.key_value_size)
    if attention.sinks:
        yield Part("softmax_offset", attention.num_heads, Sharding.TENSOR)
    yield from _linear(
        "linear_proj", attention.query_size, hidden, LinearKind.ROW, bias=attention.output_bias
    )


def _gated_delta_net(hidden: int, attention: GatedDeltaNet) -> Iterator[Part]:
    """Source: megatron-core 0.16.1, megatron/core/ssm/gated_delta_net.py:131-222."""
    keys, values, heads = attention.key_size, attention.value_size, attention.num_value_heads
    yield norm_part("input_layernorm", hidden)
    yield from _linear(
        "linear_attention.in_proj", hidden, 2 * keys + 2 * values + 2 * heads, LinearKind.COLUMN
    )
    convolved = (2 * keys + values) * attention.conv_kernel_dim
    yield Part("linear_attention.conv1d", convolved, Sharding.TENSOR)
    yield Part("linear_attention.dt_bias", heads, Sharding.TENSOR)
    yield Part("linear_attention.A_log", heads, Sharding.TENSOR)
    yield norm_part("linear_attention.out_norm", attention.value_head_dim)
    yield from _linear("linear_attention.out_proj", values, hidden, LinearKind.ROW)


def _sparse_indexer(hidden: int, q_lora_rank: int, indexer: SparseIndexer) -> Iterator[Part]:
    """Source: megatron-core 0.16.1,
    megatron/core/transformer/experimental_attention_variant/dsa.py:410-453."""
    width = indexer.num_heads * indexer.head_dim
    yield from _linear("indexer.linear_wq_b", q_lora_rank, width, LinearKind.DUPLICATED)
    yield from _linear("indexer.linear_wk", hidden, indexer.head_dim, LinearKind.DUPLICATED)
    yield norm_part("indexer.k_norm", 2 * indexer.head_dim)  # LayerNorm: weight and bias
    yield from _linear(
        "indexer.linear_weights_proj", hidden, indexer.num_heads, LinearKind.DUPLICATED
    )


def _multi_latent_attention(hidden: int, attention: MultiLatentAttention) -> Iterator[Part]:
    queries = attention.num_heads * attention.qk_head_dim
    keys_values = attention.num_heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    latent = attention.kv_lora_rank + attention.qk_rope_head_dim
    yield norm_part("input_layernorm", hidden)
    if attention.q_lora_rank is None:
        yield from _linear("linear_q_proj", hidden, queries, LinearKind.COLUMN)
    else:
        rank = attention.q_lora_rank
        yield from _linear("linear_q_down_proj", hidden, rank, LinearKind.DUPLICATED)
        yield norm_part("q_layernorm", rank)
        yield from _linear("linear_q_up_proj", rank, queries, LinearKind.COLUMN)
    yield from _linear("linear_kv_down_proj", hidden, latent, LinearKind.DUPLICATED)
    yield norm_part("kv_layernorm", attention.kv_lora_rank)
    yield from _linear("linear_kv_up_proj", attention.kv_lora_rank, keys_values, LinearKind.COLUMN)
    yield from _linear(
        "linear_proj", attention.num_heads * attention.v_head_dim, hidden, LinearKind.ROW
    )
    if attention.indexer is not None:
        yield from _sparse_indexer(hidden, attention.q_lora_rank or hidden, attention.indexer)


def _feed_forward(prefix: str, hidden: int, ffn: int, *, bias: bool) -> Iterator[Part]:
    yield from _linear(f"{prefix}linear_fc1", hidden, 2 * ffn, LinearKind.COLUMN, bias=bias)
    yield from _linear(f"{prefix}linear_fc2", ffn, hidden, LinearKind.ROW, bias=bias)


def _sparse_feed_forward(model: ModelSpec) -> Iterator[Part]:
    moe, hidden, bias = model.moe, model.hidden_size, model.linear_bias
    assert moe is not None
    yield Part("router", moe.num_experts * hidden, Sharding.REPLICATED)
    if bias:
        yield Part("router.bias", moe.num_experts, Sharding.REPLICATED)
    ffn, experts = moe.ffn_hidden_size, moe.num_experts
    for part_id, in_features, out_features, kind in (
        ("experts.linear_fc1", hidden, 2 * ffn, LinearKind.COLUMN),
        ("experts.linear_fc2", ffn, hidden, LinearKind.ROW),
    ):
        elements = experts * in_features * out_features
        shape = (in_features, out_features, kind)
        yield Part(part_id, elements, Sharding.EXPERT, shape, copies=experts)
        if bias:
            yield Part(f"{part_id}.bias", experts * out_features, Sharding.EXPERT)  # ETP is 1 then
    if moe.shared_expert_intermediate_size:
        shared = moe.shared_expert_intermediate_size
        yield from _feed_forward("shared_experts.", hidden, shared, bias=bias)
        if moe.shared_expert_gate:
            yield Part("shared_experts.gate", hidden, Sharding.REPLICATED)


@cache
def layer_parts(model: ModelSpec, kind: LayerKind) -> tuple[Part, ...]:
    """Parts of one decoder layer of a kind."""
    hidden = model.hidden_size
    if kind.is_linear:
        assert model.linear_attention is not None
        attention = _gated_delta_net(hidden, model.linear_attention)
    elif isinstance(model.attention, GroupedQueryAttention):
        attention = _grouped_query_attention(hidden, model.attention)
    else:
        attention = _multi_latent_attention(hidden, model.attention)
    feed_forward = (
        _sparse_feed_forward(model)
        if kind.is_moe
        else _feed_forward("mlp.", hidden, model.dense_ffn_hidden_size, bias=model.linear_bias)
    )
    return (*attention, norm_part("pre_mlp_layernorm", hidden), *feed_forward)


@cache
def mtp_parts(model: ModelSpec) -> tuple[Part, ...]:
    """Parts of one multi-token-prediction layer: two norms, a projection, a decoder layer, a
    norm."""
    hidden = model.hidden_size
    return (
        norm_part("mtp.enorm", hidden),
        norm_part("mtp.hnorm", hidden),
        *_linear("mtp.eh_proj", 2 * hidden, hidden, LinearKind.COLUMN),
        *layer_parts(model, model.mtp_kind),
        norm_part("mtp.final_layernorm", hidden),
    )


def embedding_part(model: ModelSpec) -> Part:
    """The word embedding, or the output layer: of one shape.

    TP pads the vocabulary to a multiple of itself (mcore-bridge 1.6.5,
    mcore_bridge/model/gpt_model.py:72).
    """
    hidden = model.hidden_size
    return Part("embedding", model.vocab_size * hidden, Sharding.TENSOR, indivisible=hidden)
