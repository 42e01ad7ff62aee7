"""Qwen 2, 2.5, 3, 3-Next and 3.5."""

from planner.architectures.rules import (
    ANYTHING,
    BIAS_ALWAYS,
    EVERY_LAYER_SPARSE,
    NO_OUTPUT_BIAS,
    NO_QKV_BIAS,
    NORM_ALWAYS,
    Architecture,
    Boolean,
    Integer,
    OneOf,
    Pattern,
    Rule,
    decoder,
    irrelevant,
    only_causal,
    routed_experts,
)

_NO_SHARED_EXPERT = OneOf(values=(None, 0), why="Qwen3-MoE has no shared expert")

# Linear attention in all layers but every full_attention_interval-th (parser.py:309-315).
_HYBRID: dict[str, Rule] = {
    "head_dim": Integer(),
    "attention_bias": NO_OUTPUT_BIAS,
    "full_attention_interval": Integer(default=4),
    "layer_types": Pattern(words=("linear_attention", "full_attention")),
    "linear_num_key_heads": Integer(),
    "linear_num_value_heads": Integer(),
    "linear_key_head_dim": Integer(),
    "linear_value_head_dim": Integer(),
    "linear_conv_kernel_dim": Integer(),
    "shared_expert_intermediate_size": Integer(),
}

QWEN: dict[str, Architecture] = {
    "qwen2": Architecture(
        rules=decoder("Qwen2ForCausalLM")
        | {
            "intermediate_size": Integer(),
            "attention_bias": BIAS_ALWAYS,
            "qkv_bias": BIAS_ALWAYS,
        },
        experts=False,
        qkv_bias=True,
    ),
    "qwen2_moe": Architecture(
        rules=decoder("Qwen2MoeForCausalLM")
        | EVERY_LAYER_SPARSE
        | routed_experts()
        | {
            "shared_expert_intermediate_size": Integer(),
            "qkv_bias": Boolean(default=True),
        },
        shared_expert_gate=True,
    ),
    "qwen3": Architecture(
        rules=decoder("Qwen3ForCausalLM")
        | {
            "head_dim": Integer(),
            "intermediate_size": Integer(),
            "attention_bias": NO_OUTPUT_BIAS,
            "use_qk_norm": NORM_ALWAYS,
        },
        experts=False,
        qk_layernorm="head",
    ),
    "qwen3_moe": Architecture(
        rules=decoder("Qwen3MoeForCausalLM")
        | EVERY_LAYER_SPARSE
        | routed_experts()
        | {
            "head_dim": Integer(),
            "attention_bias": NO_OUTPUT_BIAS,
            "qkv_bias": NO_QKV_BIAS,
            "use_qk_norm": NORM_ALWAYS,
            "shared_expert_intermediate_size": _NO_SHARED_EXPERT,
        },
        qk_layernorm="head",
    ),
    "qwen3_next": Architecture(
        rules=decoder("Qwen3NextForCausalLM") | EVERY_LAYER_SPARSE | routed_experts() | _HYBRID,
        qk_layernorm="head",
        output_gate=True,
        shared_expert_gate=True,
    ),
    "qwen3_5_moe": Architecture(
        rules=decoder("Qwen3_5MoeForCausalLM")
        | EVERY_LAYER_SPARSE
        | routed_experts()
        | _HYBRID
        | {
            "attn_output_gate": OneOf(
                values=(None, True), why="mcore-bridge builds the gate of Qwen3.5"
            ),
            "mtp_num_layers": Integer(minimum=0, default=0, names=("mtp_num_hidden_layers",)),
            "mtp_use_dedicated_embeddings": OneOf(
                values=(None, False), why="MTP layers share the embedding in Megatron-Core"
            ),
        }
        | irrelevant("mamba_ssm_dtype mlp_only_layers"),
        qk_layernorm="head",
        output_gate=True,
        shared_expert_gate=True,
        vision={
            "model_type": ANYTHING,
            "depth": Integer(),
            "hidden_size": Integer(),
            "intermediate_size": Integer(),
            "num_heads": Integer(),
            "in_channels": Integer(),
            "patch_size": Integer(),
            "temporal_patch_size": Integer(),
            "spatial_merge_size": Integer(),
            "num_position_embeddings": Integer(),
            "out_hidden_size": Integer(),
            "hidden_act": ANYTHING,
            "deepstack_visual_indexes": OneOf(
                values=(None, []), why="Qwen3.5 has no other mergers"
            ),
        },
        wrapper={
            "architectures": only_causal(("Qwen3_5MoeForConditionalGeneration",)),
            **irrelevant("image_token_id video_token_id vision_start_token_id vision_end_token_id"),
        },
    ),
}
