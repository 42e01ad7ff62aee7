"""DeepSeek V2, V3 and V3.2, Kimi K2, Moonlight and GLM-5: multi-latent attention."""

from planner.architectures.rules import (
    NO_OUTPUT_BIAS,
    REQUIRED,
    Architecture,
    Integer,
    OneOf,
    Rule,
    decoder,
    irrelevant,
    routed_experts,
)

_NUMBER = ("n_routed_experts", "num_local_experts", "num_experts")

LATENT: dict[str, Rule] = {
    "q_lora_rank": Integer(nullable=True),
    "kv_lora_rank": Integer(),
    "qk_nope_head_dim": Integer(),
    "qk_rope_head_dim": Integer(),
    "v_head_dim": Integer(),
    "qk_head_dim": Integer(nullable=True, default=None),  # transformers 5 saves the sum
    "attention_bias": NO_OUTPUT_BIAS,
}

# The experts of DeepSeek, which GLM has too.
GROUPED_EXPERTS: dict[str, Rule] = routed_experts(number=_NUMBER) | {
    "intermediate_size": Integer(),
    "n_shared_experts": Integer(minimum=0, nullable=True),
    "n_group": Integer(nullable=True, default=None),  # of experts, to route by
    "topk_group": Integer(nullable=True, default=None),
    "first_k_dense_replace": Integer(minimum=0),
    "mtp_num_layers": Integer(
        minimum=0, default=0, names=("num_nextn_predict_layers", "num_mtp_layers")
    ),
    "moe_layer_freq": OneOf(
        values=(None, 1), why="mcore-bridge reads first_k_dense_replace and ignores it"
    ),
}

_ANY_SCORE = OneOf(
    values=("sigmoid", "softmax"),
    default=REQUIRED,
    why="megatron-core has no other score function",
)
_NO_AUXILIARY_LOSS = OneOf(
    values=(None, "noaux_tc"), why="DeepSeek-V3 routes without an auxiliary loss"
)

_V3 = LATENT | GROUPED_EXPERTS | {"scoring_func": _ANY_SCORE, "topk_method": _NO_AUXILIARY_LOSS}

_INDEXER: dict[str, Rule] = {
    "q_lora_rank": Integer(),
    "index_n_heads": Integer(),
    "index_head_dim": Integer(),
    "index_topk": Integer(),
    "index_topk_freq": OneOf(
        values=(None, 1), why="only Megatron-LM's main branch shares an indexer among layers"
    ),
}

DEEPSEEK: dict[str, Architecture] = {
    "deepseek_v2": Architecture(
        rules=decoder("DeepseekV2ForCausalLM")
        | LATENT
        | GROUPED_EXPERTS
        | {
            "scoring_func": OneOf(
                values=("softmax", "sigmoid"),
                default="softmax",
                why="megatron-core has no other score function",
            ),
        }
        | irrelevant("topk_method"),
        attention="mla",
    ),
    "deepseek_v3": Architecture(rules=decoder("DeepseekV3ForCausalLM") | _V3, attention="mla"),
    "kimi_k2": Architecture(rules=decoder("DeepseekV3ForCausalLM") | _V3, attention="mla"),
    "deepseek_v32": Architecture(
        rules=decoder("DeepseekV32ForCausalLM") | _V3 | _INDEXER, attention="mla"
    ),
    "glm_moe_dsa": Architecture(
        rules=decoder("GlmMoeDsaForCausalLM")
        | _V3
        | _INDEXER
        | {"scoring_func": OneOf(values=(None, "sigmoid"), why="GLM-5 routes with sigmoid")}
        | irrelevant("indexer_rope_interleave"),
        attention="mla",
        router_score_function="sigmoid",
    ),
}
