"""The models of the design: published config.json files, or what of them decides sizes.

`FAMILIES` tells ms-swift's names for them; the number of layers is the design's own.
"""

import json
from pathlib import Path
from typing import Any

import planner

BUNDLED = Path(planner.__file__).parent / "data" / "models"

_COMMON: dict[str, Any] = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_QWEN2_MOE = _COMMON | {
    "architectures": ["Qwen2MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "max_position_embeddings": 131072,
    "mlp_only_layers": [],
    "model_type": "qwen2_moe",
    "norm_topk_prob": False,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen2-57B-A14B": _QWEN2_MOE
    | {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "moe_intermediate_size": 2560,
        "num_attention_heads": 28,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 4,
        "shared_expert_intermediate_size": 20480,
    },
    "Qwen1.5-MoE-A2.7B": _QWEN2_MOE
    | {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "moe_intermediate_size": 1408,
        "num_attention_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "num_key_value_heads": 16,
        "shared_expert_intermediate_size": 5632,
    },
    "Moonlight-16B-A3B": _COMMON
    | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "first_k_dense_replace": 1,
        "hidden_size": 2048,
        "intermediate_size": 11264,
        "kv_lora_rank": 512,
        "max_position_embeddings": 131072,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": True,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_key_value_heads": 16,
        "num_nextn_predict_layers": 0,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-05,
        "rope_theta": 50000.0,
        "routed_scaling_factor": 2.446,
        "scoring_func": "sigmoid",
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "vocab_size": 163840,
    },
    "Llama-3.1-8B": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "vocab_size": 128256,
    },
    "GLM-4.5-Air": _COMMON
    | {
        "architectures": ["Glm4MoeForCausalLM"],
        "attention_bias": True,
        "first_k_dense_replace": 1,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 10944,
        "max_position_embeddings": 131072,
        "model_type": "glm4_moe",
        "moe_intermediate_size": 1408,
        "n_group": 1,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 96,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 8,
        "num_nextn_predict_layers": 1,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000,
        "routed_scaling_factor": 1.0,
        "topk_group": 1,
        "use_qk_norm": False,
        "vocab_size": 151552,
    },
}

# family: models, ms-swift's model_type and template, rows of the design
FAMILIES: dict[str, tuple[tuple[str, ...], str, str, int]] = {
    "qwen3_moe": (("Qwen3-30B-A3B", "Qwen3-235B-A22B"), "qwen3_moe", "qwen3", 17),
    "deepseek_v3": (("DeepSeek-V3", "Moonlight-16B-A3B"), "deepseek_v3", "deepseek_v2_5", 15),
    "qwen2_moe": (("Qwen2-57B-A14B", "Qwen1.5-MoE-A2.7B"), "qwen2_moe", "qwen", 10),
    "dense": (("Qwen2.5-7B", "Llama-3.1-8B"), "", "", 11),
    "glm4_moe": (("GLM-4.5-Air",), "glm4_moe", "glm4_5", 10),
}
SET_ASIDE_FAMILY = "glm4_moe"
DENSE_NAMES = {"Qwen2.5-7B": ("qwen2", "qwen2_5"), "Llama-3.1-8B": ("llama", "llama3_2")}


def config_of(name: str, num_layers: int) -> dict[str, Any]:
    """A model's config.json with this many layers."""
    config: dict[str, Any]
    if name in PUBLISHED:
        config = dict(PUBLISHED[name])
    else:
        config = json.loads((BUNDLED / f"{name}.json").read_text(encoding="utf-8"))
    for hub_only in ("auto_map", "quantization_config"):  # weights are bf16 here, code installed
        config.pop(hub_only, None)
    return config | {"num_hidden_layers": num_layers}
