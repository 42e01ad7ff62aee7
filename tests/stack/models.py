"""Model folders of the Hugging Face kind: config.json and a tokenizer, with weights if tiny."""

import json
from pathlib import Path
from typing import Any

import planner

BUNDLED = Path(planner.__file__).parent / "data" / "models"

TINY_QWEN3_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "decoder_sparse_step": 1,
    "eos_token_id": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "max_window_layers": 4,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 512,
}

# Bundled models with fewer layers and experts, quick to build, and one of odd sizes.
SHORT: dict[str, tuple[str, dict[str, Any]]] = {
    "short-qwen3": ("Qwen3-30B-A3B", {"num_hidden_layers": 12, "num_experts": 16}),
    "short-deepseek": (
        "DeepSeek-V3",
        {"num_hidden_layers": 6, "first_k_dense_replace": 2, "n_routed_experts": 32},
    ),
    "short-qwen2.5": ("Qwen2.5-7B", {"num_hidden_layers": 8}),
    "odd-qwen2.5": ("Qwen2.5-7B", {"num_hidden_layers": 3, "intermediate_size": 18945}),
    "prime-qwen2.5": ("Qwen2.5-7B", {"num_hidden_layers": 3, "vocab_size": 152063}),
    "short-gpt-oss": ("gpt-oss-20b", {"num_hidden_layers": 4, "layer_types": None}),
    "odd-qwen3": (
        "Qwen3-30B-A3B",
        {
            "num_hidden_layers": 10,
            "hidden_size": 96,
            "num_attention_heads": 12,
            "num_key_value_heads": 6,
            "head_dim": 16,
            "num_experts": 12,
            "moe_intermediate_size": 36,
            "intermediate_size": 120,
            "vocab_size": 1008,
        },
    ),
}

# Types that transformers does not have: their configuration is the one of another type.
REMOTE_CODE = {
    "kimi_k2": (
        "from transformers import DeepseekV3Config as V3\n\n\n"
        'class {name}(V3):\n    model_type = "kimi_k2"\n'
    )
}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bundled_config(name: str) -> dict[str, Any]:
    """Return the config.json that the planner ships for a model."""
    config: dict[str, Any] = json.loads((BUNDLED / f"{name}.json").read_text("utf-8"))
    return config


def short_config(name: str) -> dict[str, Any]:
    """Return the config.json of one of `SHORT`."""
    base, changes = SHORT[name]
    return {**bundled_config(base), **changes}


def write_model(folder: Path, config: dict[str, Any]) -> Path:
    """Return `folder`, now with config.json and a tokenizer of single bytes.

    ms-swift knows a model by the name of its folder; one that it does not know needs --template.
    """
    folder.mkdir(parents=True)
    if config["model_type"] not in REMOTE_CODE:  # transformers has the class
        config = {name: value for name, value in config.items() if name != "auto_map"}
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    if config["model_type"] in REMOTE_CODE:
        module, class_name = config["auto_map"]["AutoConfig"].split(".")
        code = REMOTE_CODE[config["model_type"]].format(name=class_name)
        (folder / f"{module}.py").write_text(code, "utf-8")
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), "utf-8")


def write_tiny_qwen3_moe(folder: Path, **changes: Any) -> Path:
    """Return `folder`, now with a Qwen3-MoE of 0.2 M parameters, the same at every call; `changes`
    are of its config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    write_model(folder, TINY_QWEN3_MOE | changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_toy_dataset(path: Path, num_samples: int = 64) -> Path:
    """Return `path`, now a JSON Lines file of short conversations."""
    lines = (
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"hello {i}"},
                    {"role": "assistant", "content": f"world {i} " * 8},
                ]
            }
        )
        for i in range(num_samples)
    )
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
