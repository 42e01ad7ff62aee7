"""What mcore-bridge makes of a config.json, in the planner's words. Runs inside the stack."""

from typing import Any

from mcore_bridge.config.model_config import moe_freq_type
from mcore_bridge.config.parser import hf_to_mcore_config
from mcore_bridge.model.register import MODEL_MAPPING
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

# Types whose own configuration class is that of another type.
REMOTE_CODE = {"kimi_k2": "deepseek_v3"}


def of_config(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return what decides the number of parameters; None: transformers does not read the file.

    Where mcore-bridge sets nothing, the default of its ModelConfig counts.
    """
    try:
        hugging_face = _hugging_face(config)
    except Exception:  # whatever its classes make of fields that they do not expect
        return None
    parsed = hf_to_mcore_config(hugging_face)
    moe_layers = _moe_layers(parsed)
    return {
        "num_layers": parsed["num_layers"],
        "hidden_size": parsed["hidden_size"],
        "vocab_size": parsed["padded_vocab_size"],
        "tie_word_embeddings": not parsed.get("untie_embeddings_and_output_weights", True),
        "bias": parsed.get("add_bias_linear", False),
        "attention": _attention(parsed),
        "linear_attention": _linear_attention(parsed),
        "linear_layers": _linear_layers(parsed),
        "window": _window(parsed),
        "window_layers": _window_layers(parsed),
        "moe_layers": moe_layers,
        "dense_ffn_hidden_size": 0 if all(moe_layers) else parsed["ffn_hidden_size"],
        "moe": _experts(parsed),
    }


def model_types() -> list[str]:
    """Return the types of config.json that mcore-bridge has a loader for."""
    return sorted({each for meta in MODEL_MAPPING.values() for each in meta.model_types})


def _hugging_face(config: dict[str, Any]) -> PreTrainedConfig:
    """What AutoConfig makes of a file; a type with remote code has no defaults of its own."""
    model_type = config["model_type"]
    fields = {name: config[name] for name in config if name not in ("_name_or_path", "model_type")}
    known = REMOTE_CODE.get(model_type, model_type)
    if known in CONFIG_MAPPING:
        made = AutoConfig.for_model(known, **fields)
    else:
        made = PreTrainedConfig(**fields)
    made.model_type = model_type
    return made


def _attention(parsed: dict[str, Any]) -> dict[str, Any]:
    heads = parsed["num_attention_heads"]
    if parsed.get("multi_latent_attention", False):
        return {
            "num_heads": heads,
            "q_lora_rank": parsed.get("q_lora_rank"),
            "kv_lora_rank": parsed["kv_lora_rank"],
            "qk_nope_head_dim": parsed["qk_head_dim"],
            "qk_rope_head_dim": parsed["qk_pos_emb_head_dim"],
            "v_head_dim": parsed["v_head_dim"],
            "indexer": _indexer(parsed),
        }
    bias = parsed.get("add_bias_linear", False)
    return {
        "num_heads": heads,
        "num_query_groups": parsed.get("num_query_groups", heads),
        "head_dim": parsed.get("kv_channels", parsed["hidden_size"] // heads),
        "qkv_bias": bias or parsed.get("add_qkv_bias", True),
        "qk_layernorm": _norms(parsed),
        "output_bias": bias,
        "sinks": parsed.get("softmax_type", "vanilla") == "learnable",
        "output_gate": parsed.get("attention_output_gate", False),
    }


def _norms(parsed: dict[str, Any]) -> str:
    """mcore_bridge/model/gpts/olmoe.py and minimax_m2.py norm all channels."""
    if not parsed.get("qk_layernorm", False):
        return "none"
    return "full" if parsed["llm_model_type"] in ("olmoe", "minimax_m2") else "head"


def _indexer(parsed: dict[str, Any]) -> dict[str, Any] | None:
    if parsed.get("experimental_attention_variant") != "dsa":
        return None
    return {
        "num_heads": parsed["dsa_indexer_n_heads"],
        "head_dim": parsed["dsa_indexer_head_dim"],
        "topk": parsed["dsa_indexer_topk"],
    }


def _linear_attention(parsed: dict[str, Any]) -> dict[str, Any] | None:
    if parsed.get("experimental_attention_variant") != "gated_delta_net":
        return None
    return {
        "num_key_heads": parsed["linear_num_key_heads"],
        "num_value_heads": parsed["linear_num_value_heads"],
        "key_head_dim": parsed["linear_key_head_dim"],
        "value_head_dim": parsed["linear_value_head_dim"],
        "conv_kernel_dim": parsed["linear_conv_kernel_dim"],
    }


def _linear_layers(parsed: dict[str, Any]) -> list[bool]:
    if "linear_attention_freq" not in parsed:
        return []
    frequency = int(parsed["linear_attention_freq"])
    return [bool((layer + 1) % frequency) for layer in range(parsed["num_layers"])]


def _window(parsed: dict[str, Any]) -> int | None:
    """A query sees itself and so many tokens before it."""
    if "window_size" not in parsed:
        return None
    return int(parsed["window_size"].split(",")[0]) + 1


def _window_layers(parsed: dict[str, Any]) -> list[bool]:
    if "window_attn_skip_freq" not in parsed:
        return []
    frequency = moe_freq_type(parsed["window_attn_skip_freq"])
    if isinstance(frequency, int):
        return [(layer + 1) % frequency != 0 for layer in range(parsed["num_layers"])]
    return [bool(window) for window in frequency]


def _moe_layers(parsed: dict[str, Any]) -> list[bool]:
    num_layers = parsed["num_layers"]
    if parsed.get("num_moe_experts") is None:
        return [False] * num_layers
    frequency = moe_freq_type(parsed.get("moe_layer_freq", "1"))
    if isinstance(frequency, int):
        return [layer % frequency == 0 for layer in range(num_layers)]
    return [bool(sparse) for sparse in frequency]


def _experts(parsed: dict[str, Any]) -> dict[str, Any] | None:
    if parsed.get("num_moe_experts") is None:
        return None
    return {
        "num_experts": parsed["num_moe_experts"],
        "router_topk": parsed["moe_router_topk"],
        # absent: mcore_bridge/config/model_config.py:315 takes the other width
        "ffn_hidden_size": parsed.get("moe_ffn_hidden_size", parsed.get("ffn_hidden_size")),
        "shared_expert_intermediate_size": parsed.get("moe_shared_expert_intermediate_size") or 0,
        "shared_expert_gate": parsed.get("moe_shared_expert_gate", False),
        "router_score_function": parsed.get("moe_router_score_function", "softmax"),
        "router_expert_bias": parsed.get("moe_router_enable_expert_bias", False),
    }
