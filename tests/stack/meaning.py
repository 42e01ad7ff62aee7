"""What mcore-bridge makes of a config.json, in the planner's words. Runs inside the stack."""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from mcore_bridge.config.model_config import moe_freq_type
from mcore_bridge.config.parser import hf_to_mcore_config
from transformers import AutoConfig


def of_config(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return what decides the number of parameters; None: transformers does not read the file.

    Where mcore-bridge sets nothing, the default of its ModelConfig counts.
    """
    try:
        parsed = hf_to_mcore_config(AutoConfig.for_model(**config))
    except (StrictDataclassError, AttributeError):  # the latter for a torch_dtype of no type
        return None
    moe_layers = _moe_layers(parsed)
    return {
        "num_layers": parsed["num_layers"],
        "hidden_size": parsed["hidden_size"],
        "vocab_size": parsed["padded_vocab_size"],
        "tie_word_embeddings": not parsed.get("untie_embeddings_and_output_weights", True),
        "bias": parsed.get("add_bias_linear", False),
        "gated": parsed.get("swiglu", True),
        "attention": _attention(parsed),
        "moe_layers": moe_layers,
        "dense_ffn_hidden_size": 0 if all(moe_layers) else parsed["ffn_hidden_size"],
        "moe": _experts(parsed),
    }


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
        }
    return {
        "num_heads": heads,
        "num_query_groups": parsed.get("num_query_groups", heads),
        "head_dim": parsed.get("kv_channels", parsed["hidden_size"] // heads),
        "qkv_bias": parsed.get("add_qkv_bias", True),
        "qk_layernorm": parsed.get("qk_layernorm", False),
    }


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
        "ffn_hidden_size": parsed["moe_ffn_hidden_size"],
        "shared_expert_intermediate_size": parsed.get("moe_shared_expert_intermediate_size") or 0,
        "shared_expert_gate": parsed.get("moe_shared_expert_gate", False),
        "router_score_function": parsed.get("moe_router_score_function", "softmax"),
        "router_expert_bias": parsed.get("moe_router_enable_expert_bias", False),
    }
