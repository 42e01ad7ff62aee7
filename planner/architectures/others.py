"""Llama and Mistral, GLM-4.5, gpt-oss, MiniMax-M2, ERNIE, Ling, OLMoE, Granite."""

from planner.architectures.deepseek import GROUPED_EXPERTS
from planner.architectures.rules import (
    ANYTHING,
    NO_OUTPUT_BIAS,
    NO_QKV_BIAS,
    REQUIRED,
    Architecture,
    Boolean,
    Integer,
    OneOf,
    Pattern,
    decoder,
    irrelevant,
    only_causal,
    routed_experts,
    scoring,
)

_LLAMA = decoder("LlamaForCausalLM", "MistralForCausalLM") | {
    "intermediate_size": Integer(),
    "attention_bias": NO_OUTPUT_BIAS,
}
_WIDTH = ("intermediate_size",)  # files of these types call an expert's width so

# ms-swift 4.6.0 and mcore-bridge 1.6.5 have no loader for it (mcore_bridge/model/gpts/llm.py).
_NOT_REGISTERED = "mcore-bridge, through which ms-swift reads weights, does not know this type"

LLAMA: dict[str, Architecture] = {
    "llama": Architecture(rules=_LLAMA, experts=False),
    "mistral": Architecture(rules=_LLAMA, experts=False, not_trained=_NOT_REGISTERED),
    "mixtral": Architecture(
        rules=decoder("MixtralForCausalLM")
        | routed_experts(number=("num_local_experts", "num_experts"), width=_WIDTH),
        not_trained=_NOT_REGISTERED,
    ),
    "llama4": Architecture(
        rules=decoder("Llama4ForCausalLM")
        | routed_experts(number=("num_local_experts",), width=_WIDTH)
        | {
            "head_dim": Integer(),
            "intermediate_size": Integer(names=("intermediate_size_mlp",)),
            "interleave_moe_layer_step": Integer(default=1),
            "attention_bias": NO_OUTPUT_BIAS,
        }
        # qk norms of Llama 4 have no parameters
        | irrelevant(
            "attention_chunk_size attn_scale attn_temperature_tuning floor_scale moe_layers"
            " no_rope_layers no_rope_layer_interval nope_layer_interval use_qk_norm"
            " for_llm_compressor"
        ),
        router_score_function="sigmoid",
        router_expert_bias=False,
        vision_flash_attention=False,  # transformers 5.19.0, modeling_llama4.py: Llama4VisionModel
        vision={
            "model_type": ANYTHING,
            "num_hidden_layers": Integer(),
            "hidden_size": Integer(),
            "intermediate_size": Integer(),
            "num_channels": Integer(),
            "image_size": Integer(),
            "patch_size": Integer(),
            "vision_output_dim": Integer(),
            "projector_input_dim": Integer(),
            "projector_output_dim": Integer(),
            "multi_modal_projector_bias": OneOf(
                values=(None, False), why="transformers builds no bias there"
            ),
            **irrelevant(
                "num_attention_heads hidden_act norm_eps pixel_shuffle_ratio projector_dropout"
                " vision_feature_layer vision_feature_select_strategy"
            ),
        },
        wrapper={
            "architectures": only_causal(("Llama4ForConditionalGeneration",)),
            **irrelevant(
                "boi_token_index eoi_token_index image_token_index boi_token_id eoi_token_id"
                " image_token_id"
            ),
        },
    ),
}

OTHERS: dict[str, Architecture] = {
    "glm4_moe": Architecture(
        rules=decoder("Glm4MoeForCausalLM")
        | GROUPED_EXPERTS
        | {
            "qkv_bias": Boolean(default=False, names=("attention_bias",)),
            "use_qk_norm": Boolean(default=False),
            "scoring_func": scoring("sigmoid"),
        },
        router_score_function="sigmoid",
    ),
    "gpt_oss": Architecture(
        rules=decoder("GptOssForCausalLM")
        | routed_experts(number=("num_local_experts", "num_experts"), width=_WIDTH)
        | {
            "head_dim": Integer(),
            "attention_bias": OneOf(values=(True,), default=True, why="gpt-oss has biases"),
            "sliding_window": Integer(),
            "layer_types": Pattern(words=("sliding_attention", "full_attention")),
        }
        | irrelevant("experts_per_token initial_context_length swiglu_alpha swiglu_limit"),
        qkv_bias=True,
        output_bias=True,
        linear_bias=True,
        sinks=True,
        windowed=True,
    ),
    "minimax_m2": Architecture(
        rules=decoder("MiniMaxM2ForCausalLM")
        | routed_experts(number=("num_local_experts", "num_experts"), width=_WIDTH)
        | {
            "head_dim": Integer(),
            "use_qk_norm": OneOf(
                values=(True,), default=REQUIRED, why="without it mcore-bridge builds no norms"
            ),
            "qk_norm_type": OneOf(
                values=(None, "per_layer"), why="mcore-bridge builds norms of all channels"
            ),
            "shared_expert_intermediate_size": OneOf(
                values=(None, 0), names=("shared_intermediate_size",), why="it has none"
            ),
            "scoring_func": OneOf(
                values=("sigmoid", "softmax"), default="softmax", why="there is no other"
            ),
            "attn_type_list": ANYTHING,
        }
        | irrelevant(
            "mlp_intermediate_size mtp_transformer_layers num_mtp_modules rotary_dim use_mtp"
            " use_routing_bias"
        ),
        qk_layernorm="full",
    ),
    "olmoe": Architecture(
        rules=decoder("OlmoeForCausalLM")
        | routed_experts(width=_WIDTH)
        | {
            "attention_bias": NO_OUTPUT_BIAS,
            "clip_qkv": OneOf(values=(None,), why="megatron-core does not clip"),
        },
        qk_layernorm="full",
        trained_since="4.0",  # ms-swift 4.0.4, swift/megatron/model/gpts/olmoe.py
    ),
    "ernie4_5_moe": Architecture(
        rules=decoder("Ernie4_5_MoeForCausalLM")
        | routed_experts(
            number=("moe_num_experts", "num_experts"), topk=("moe_k", "num_experts_per_tok")
        )
        | {
            "intermediate_size": Integer(),
            "tie_word_embeddings": Boolean(default=True),
            "n_shared_experts": Integer(
                minimum=0, nullable=True, names=("moe_num_shared_experts",)
            ),
            "first_k_dense_replace": Integer(minimum=0, names=("moe_layer_start_index",)),
            "moe_layer_end_index": Integer(minimum=-1, nullable=True, default=None),
            "moe_layer_interval": OneOf(
                values=(None, 1), why="mcore-bridge makes all later layers sparse"
            ),
            "use_bias": NO_OUTPUT_BIAS,
        }
        | irrelevant("moe_capacity moe_gate moe_gate_act moe_norm_min moe_use_aux_free"),
    ),
    "bailing_moe": Architecture(
        rules=decoder("BailingMoeForCausalLM")
        | routed_experts(number=("num_experts", "n_routed_experts"))
        | {
            "intermediate_size": Integer(),
            "n_shared_experts": Integer(
                minimum=0, nullable=True, names=("num_shared_experts", "n_shared_experts")
            ),
            "first_k_dense_replace": Integer(minimum=0),
            "use_bias": NO_OUTPUT_BIAS,
            "use_qkv_bias": NO_QKV_BIAS,
            "use_qk_norm": OneOf(values=(None, False), why="Ling 1 has no norms of q and k"),
        }
        | irrelevant("embedding_dropout norm_head norm_softmax output_dropout"),
        # ms-swift 4.6.0, swift/model/models/llm.py:210: its type is "ling"; "bailing_moe" is Ling 2
        not_trained="ms-swift knows Ling 1 as the type 'ling', which mcore-bridge does not know",
    ),
    "granitemoe": Architecture(
        rules=decoder("GraniteMoeForCausalLM")
        | routed_experts(number=("num_local_experts",), width=_WIDTH)
        | {"attention_bias": NO_OUTPUT_BIAS}
        | irrelevant(
            "attention_multiplier embedding_multiplier logits_scaling residual_multiplier"
        ),
        not_trained=_NOT_REGISTERED,
    ),
}
