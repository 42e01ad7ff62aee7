"""A small Qwen3-MoE with random weights, a tokenizer of single bytes, and documents to train on."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LETTERS = "abcdefghijklmnop "
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What two models of this kind differ in, and the packs that they are trained on."""

    hidden: int
    experts: int
    expert_hidden: int
    heads: int
    groups: int
    head_dim: int
    layers: int = 2
    vocabulary: int = 4096
    top_k: int = 4
    pack_tokens: int = 1024
    packs_a_step: int = 16


GPU = Sizes(hidden=1024, experts=32, expert_hidden=512, heads=8, groups=2, head_dim=128)
CPU = Sizes(
    hidden=64,
    experts=4,
    expert_hidden=32,
    heads=4,
    groups=2,
    head_dim=16,
    vocabulary=512,
    top_k=2,
    pack_tokens=128,
    packs_a_step=4,
)


def write_model(folder: Path, sizes: Sizes) -> None:
    """A folder of Hugging Face's kind."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config(sizes), indent=1), encoding="utf-8")
    _write_tokenizer(folder)
    _write_weights(folder, sizes)


def write_documents(page: Path, count: int, letters: int) -> None:
    """Conversations of up to so many letters, the same at every call."""
    lot = random.Random(0)
    with page.open("w", encoding="utf-8") as file:
        for _ in range(count):
            answer = "".join(lot.choices(LETTERS, k=lot.randint(letters // 2, letters)))
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")


def _config(sizes: Sizes) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "decoder_sparse_step": 1,
        "eos_token_id": SPECIAL.index("<|im_end|>"),
        "head_dim": sizes.head_dim,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "initializer_range": 0.02,
        "intermediate_size": 2 * sizes.hidden,
        "max_position_embeddings": 4096,
        "max_window_layers": sizes.layers,
        "mlp_only_layers": [],
        "moe_intermediate_size": sizes.expert_hidden,
        "norm_topk_prob": True,
        "num_attention_heads": sizes.heads,
        "num_experts": sizes.experts,
        "num_experts_per_tok": sizes.top_k,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.groups,
        "output_router_logits": False,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1e6,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": sizes.vocabulary,
    }


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors; what has one dimension is a norm."""
    queries, keys = sizes.heads * sizes.head_dim, sizes.groups * sizes.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (sizes.vocabulary, sizes.hidden),
        "model.norm.weight": (sizes.hidden,),
        "lm_head.weight": (sizes.vocabulary, sizes.hidden),
    }
    for layer in range(sizes.layers):
        inside = {
            "input_layernorm": (sizes.hidden,),
            "self_attn.q_proj": (queries, sizes.hidden),
            "self_attn.k_proj": (keys, sizes.hidden),
            "self_attn.v_proj": (keys, sizes.hidden),
            "self_attn.o_proj": (sizes.hidden, queries),
            "self_attn.q_norm": (sizes.head_dim,),
            "self_attn.k_norm": (sizes.head_dim,),
            "post_attention_layernorm": (sizes.hidden,),
            "mlp.gate": (sizes.experts, sizes.hidden),
        }
        for expert in range(sizes.experts):
            inside[f"mlp.experts.{expert}.gate_proj"] = (sizes.expert_hidden, sizes.hidden)
            inside[f"mlp.experts.{expert}.up_proj"] = (sizes.expert_hidden, sizes.hidden)
            inside[f"mlp.experts.{expert}.down_proj"] = (sizes.hidden, sizes.expert_hidden)
        shapes |= {f"model.layers.{layer}.{name}.weight": each for name, each in inside.items()}
    return shapes


def _write_weights(folder: Path, sizes: Sizes) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tensors = {
        name: torch.ones(shape) if len(shape) == 1 else 0.02 * torch.randn(shape)
        for name, shape in _shapes(sizes).items()
    }
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
