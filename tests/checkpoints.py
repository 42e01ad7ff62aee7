"""Small checkpoints in Hugging Face's format, of every type of model, without torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stack import models

from convert.expected import expected_shapes
from convert.quantised import PACKED
from convert.values import to_bfloat16
from planner.model_config import model_spec_from_config

Array = npt.NDArray[Any]

DEVIATION = 0.03  # not the one that models start from

_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
_EXPERTS: dict[str, Any] = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}

# By model_type: the bundled config that it is made from, and what makes it small.
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_moe": (
        "Qwen3-30B-A3B",
        {**_EXPERTS, "head_dim": 16, "num_experts": 4, "max_window_layers": 4},
    ),
    "deepseek_v3": (
        "DeepSeek-V3",
        {
            **_EXPERTS,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "n_group": 1,
            "n_routed_experts": 4,
            "num_key_value_heads": 4,
            "q_lora_rank": 24,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "rope_scaling": None,
            "topk_group": 1,
            "v_head_dim": 16,
        },
    ),
    "qwen2_moe": (
        "Qwen1.5-MoE-A2.7B-Chat",
        {
            **_EXPERTS,
            "num_key_value_heads": 4,
            "num_experts": 4,
            "shared_expert_intermediate_size": 48,
            "max_window_layers": 4,
        },
    ),
    "glm4_moe": (
        "GLM-4.5-Air",
        {**_EXPERTS, "head_dim": 16, "n_routed_experts": 4, "eos_token_id": 0, "pad_token_id": 0},
    ),
    "gpt_oss": (
        "gpt-oss-20b",
        {
            "head_dim": 16,
            "intermediate_size": 32,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "eos_token_id": 0,
            "pad_token_id": 0,
        },
    ),
    "olmoe": (
        "OLMoE-1B-7B-0125-Instruct",
        {"intermediate_size": 32, "num_key_value_heads": 4, "num_experts": 4, "pad_token_id": 0}
        | {"num_experts_per_tok": 2, "eos_token_id": 0},
    ),
    "deepseek_v2": (
        "DeepSeek-V2-Lite",
        {
            **_EXPERTS,
            "kv_lora_rank": 16,
            "n_routed_experts": 4,
            "num_key_value_heads": 4,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "rope_scaling": None,
            "v_head_dim": 16,
        },
    ),
    "minimax_m2": (
        "MiniMax-M2.7",
        {
            "attn_type_list": [1] * 4,
            "head_dim": 16,
            "intermediate_size": 32,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "rotary_dim": 8,
        },
    ),
    "ernie4_5_moe": (
        "ERNIE-4.5-21B-A3B-PT",
        {"moe_intermediate_size": 32, "moe_k": 2, "moe_num_experts": 4},
    ),
    "llama": ("Llama-3.1-8B", {"rope_scaling": None}),
    "mistral": ("Mistral-7B-Instruct-v0.3", {"head_dim": 16}),
    "mixtral": (
        "Mixtral-8x7B-v0.1",
        {"intermediate_size": 32, "num_experts_per_tok": 2, "num_local_experts": 4},
    ),
    "qwen3": ("Qwen3-8B", {"head_dim": 16, "max_window_layers": 4, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2.5-7B", {"max_window_layers": 4}),
}


def tiny_config(model_type: str) -> dict[str, Any]:
    """Return the config.json of a small model of a type."""
    base, changes = TINY[model_type]
    config = {**models.bundled_config(base), **_SMALL, **changes}
    return {key: value for key, value in config.items() if key != "quantization_config"}


def random_bits(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return numbers in bfloat16, as their bits."""
    numbers = rng.standard_normal(shape, dtype=np.float32) * np.float32(DEVIATION)
    return to_bfloat16(numbers)


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Array]:
    """Return every tensor of a model: bits of bfloat16, and the expert's bias in float32."""
    rng = np.random.default_rng(seed)
    spec = model_spec_from_config(config, name="tiny", origin="here")
    shapes = expected_shapes(spec)
    assert shapes is not None
    weights = {name: random_bits(shape, rng) for name, shape in shapes.items()}
    for name in weights:
        if name.endswith("e_score_correction_bias"):
            weights[name] = rng.standard_normal(shapes[name], dtype=np.float32)
        if ".embed_tokens." in name:
            weights[name] = weights["model.embed_tokens.weight"]
        if name.endswith("shared_head.head.weight"):
            weights[name] = weights["lm_head.weight"]
    return weights


_DTYPES = {"uint16": "BF16", "float32": "F32", "uint8": "F8_E4M3"}


def write_safetensors(path: Path, tensors: dict[str, Array]) -> None:
    """Write a file in the form of safetensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in tensors.items():
        header[name] = {
            "dtype": "U8" if name.endswith(PACKED) else _DTYPES[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [at, at + values.nbytes],
        }
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values).tobytes())


def write_weights(folder: Path, weights: dict[str, Array], shards: int = 2) -> None:
    """Write weights into so many files, with their index."""
    names = list(weights)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]
        write_safetensors(folder / file, {name: weights[name] for name in part})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(values.nbytes for values in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_checkpoint(folder: Path, model_type: str = "qwen3_moe", seed: int = 0) -> Path:
    """Return `folder`, now with a whole checkpoint of a small model of a type."""
    config = tiny_config(model_type)
    models.write_model(folder, config)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    write_weights(folder, random_weights(config, seed))
    return folder
