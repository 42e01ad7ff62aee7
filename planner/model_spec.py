"""What a model is, as far as its parameters, memory and arithmetic depend on it.

A `ModelSpec` is made from a Hugging Face config.json by `planner.model_config`; nothing else reads
config.json.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

QkLayernorm = Literal["none", "head", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryAttention:
    """Multi-head or grouped-query attention (GQA)."""

    num_heads: int
    num_query_groups: int
    head_dim: int
    qkv_bias: bool
    # "head": a norm of head_dim for q and one for k; "full": norms of all channels of q and of k,
    # whole on every rank
    qk_layernorm: QkLayernorm
    output_bias: bool = False
    sinks: bool = False  # a learned offset in the softmax of each head
    output_gate: bool = False  # a gate a query element, from the same projection as the queries

    @property
    def query_size(self) -> int:
        """Elements of all query heads of one token."""
        return self.num_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Elements of all key heads, or of all value heads, of one token."""
        return self.num_query_groups * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseIndexer:
    """The indexer of DeepSeek sparse attention (DSA): it picks the keys that a query attends to."""

    num_heads: int
    head_dim: int
    topk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLatentAttention:
    """Multi-latent attention (MLA) of DeepSeek-V2 and V3, with the q/k norms on the latents."""

    num_heads: int
    q_lora_rank: int | None  # None: queries are projected directly
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    indexer: SparseIndexer | None = None

    @property
    def qk_head_dim(self) -> int:
        """Elements of one query or key head: the part without and the part with rotary
        embedding."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim


Attention = GroupedQueryAttention | MultiLatentAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet:
    """Linear attention of Qwen3-Next and Qwen3.5, with a short convolution before it."""

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel_dim: int

    @property
    def key_size(self) -> int:
        """Elements of all key heads, or of all query heads, of one token."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_size(self) -> int:
        """Elements of all value heads of one token."""
        return self.num_value_heads * self.value_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """The sparse feed-forward part of a MoE layer."""

    num_experts: int
    router_topk: int
    ffn_hidden_size: int  # of one routed expert
    shared_expert_intermediate_size: int  # of all shared experts together; 0: none
    shared_expert_gate: bool
    router_score_function: str  # "softmax" or "sigmoid"
    router_expert_bias: bool  # a buffer, not a parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTower:
    """The part that makes tokens of images: whole on every rank of the first stage."""

    model_type: str
    parameters: int  # with the projection into the language model
    has_flash_attention: bool  # in transformers


class LayerKind(NamedTuple):
    """What decoder layers of one kind have in common."""

    is_moe: bool
    is_linear: bool = False  # linear attention instead of the model's attention
    window: int | None = None  # tokens that a query sees back; None: all of its document


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only language model, perhaps with a vision tower before it.

    `moe_layers[i]` says whether decoder layer i is sparse. `mtp_num_layers` is what the checkpoint
    holds; whether they are trained is the workload's choice. All feed-forward parts are gated.
    """

    name: str
    model_type: str  # Hugging Face's, for example "qwen3_moe"
    num_layers: int
    hidden_size: int
    vocab_size: int
    tie_word_embeddings: bool
    attention: Attention
    dense_ffn_hidden_size: int  # of layers that are not sparse; 0: there are none
    moe: MixtureOfExperts | None
    moe_layers: tuple[bool, ...]
    mtp_num_layers: int
    max_position_embeddings: int
    linear_bias: bool = False  # on the feed-forward parts and the router
    linear_attention: GatedDeltaNet | None = None
    linear_layers: tuple[bool, ...] = ()  # like moe_layers; empty: none
    sliding_window: int | None = None
    window_layers: tuple[bool, ...] = ()  # layers that see only the window; empty: none
    vision: VisionTower | None = None
    checkpoint_quantization: str | None = None  # of the weights on disk, for example "fp8"
    origin: str  # "bundled", or the path of the config.json

    def __hash__(self) -> int:
        """Of a few fields: hashing all takes as long as what many caches keep by the model."""
        return hash((self.name, self.num_layers, self.hidden_size))

    @property
    def is_moe(self) -> bool:
        """Whether any layer is sparse."""
        return self.moe is not None

    @property
    def unplanned_attention(self) -> str | None:
        """The attention whose memory and time are not modelled; its parameters are counted."""
        if self.linear_attention is not None:
            return "gated delta net (linear attention)"
        if isinstance(self.attention, MultiLatentAttention) and self.attention.indexer is not None:
            return "DeepSeek sparse attention (DSA)"
        return None

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of every decoder layer."""
        return _layer_kinds(self)

    @property
    def mtp_kind(self) -> LayerKind:
        """The kind of the decoder layer inside an MTP layer: that of the last layer.

        Source: megatron-core 0.16.1, megatron/core/models/gpt/gpt_layer_specs.py:
        get_gpt_mtp_block_spec_for_backend takes the last layer's.
        """
        return self.layer_kinds[-1]


@cache
def _layer_kinds(model: ModelSpec) -> tuple[LayerKind, ...]:
    none = (False,) * model.num_layers
    linear, window = model.linear_layers or none, model.window_layers or none
    return tuple(
        LayerKind(is_moe, is_linear, model.sliding_window if sees_window else None)
        for is_moe, is_linear, sees_window in zip(model.moe_layers, linear, window, strict=True)
    )
