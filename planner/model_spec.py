"""What a model is, as far as its parameters, memory and arithmetic depend on it.

A `ModelSpec` is made from a Hugging Face config.json by `planner.model_config`; nothing else reads
config.json.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryAttention:
    """Multi-head or grouped-query attention (GQA)."""

    num_heads: int
    num_query_groups: int
    head_dim: int
    qkv_bias: bool
    qk_layernorm: bool  # one norm of head_dim for q and one for k

    @property
    def query_size(self) -> int:
        """Elements of all query heads of one token."""
        return self.num_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Elements of all key heads, or of all value heads, of one token."""
        return self.num_query_groups * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLatentAttention:
    """Multi-latent attention (MLA) of DeepSeek-V2 and V3, with the q/k norms on the latents."""

    num_heads: int
    q_lora_rank: int | None  # None: queries are projected directly
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def qk_head_dim(self) -> int:
        """Elements of one query or key head: the part without and the part with rotary
        embedding."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim


Attention = GroupedQueryAttention | MultiLatentAttention


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
class ModelSpec:
    """A decoder-only language model.

    `moe_layers[i]` says whether decoder layer i is sparse. `mtp_num_layers` is what the checkpoint
    holds; whether they are trained is the workload's choice. All feed-forward parts are gated
    (SwiGLU).
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
    checkpoint_quantization: str | None = None  # of the weights on disk, for example "fp8"
    origin: str  # "bundled", or the path of the config.json

    @property
    def is_moe(self) -> bool:
        """Whether any layer is sparse."""
        return self.moe is not None
