"""Real and made-up config.json contents, ways to spoil them, and what they mean."""

import json
from dataclasses import asdict
from typing import Any

from hypothesis import strategies as st

from planner.model_config import model_spec_from_config
from planner.model_files import known_models

BUNDLED: dict[str, dict[str, Any]] = {
    model.name: json.loads(model.path.read_text()) for model in known_models()
}

# The sizes of two published models, without what else their files hold.
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}
QWEN2_57B_A14B = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "model_type": "qwen2_moe",
    "moe_intermediate_size": 2560,
    "num_attention_heads": 28,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "shared_expert_intermediate_size": 20480,
    "vocab_size": 151936,
}

ALL = [*BUNDLED.values(), QWEN3_8B, QWEN2_57B_A14B]
IDS = [*BUNDLED, "qwen3", "qwen2_moe"]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 200)
    | st.integers()
    | st.just(10**4000)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)


@st.composite
def spoiled_configs(draw: st.DrawFn) -> Any:
    """A real config.json with fields removed, renamed, replaced or added, or nested in another.

    Of a multimodal one, the part for language or vision.
    """
    config = dict(draw(st.sampled_from(ALL)))
    part = draw(st.sampled_from([name for name in PARTS if name in config] or [""]))
    inner = dict(config[part]) if part else config
    for _ in range(draw(st.integers(1, 4))):
        inner = _spoiled(draw, inner)
    if part:
        config[part] = inner
    else:
        config = inner
    return draw(st.sampled_from([config] * 9 + [[config]]))


PARTS = ("text_config", "vision_config")
NAMES = sorted(
    {name for one in ALL for inner in (one, *map(one.get, PARTS)) for name in inner or ()}
)
HUGE = st.sampled_from([2**31, 2**63, 10**12, 10**400, -1, 0, 1.5, 1e308])


def _spoiled(draw: st.DrawFn, config: dict[str, Any]) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(config) or [""]))
    match draw(st.sampled_from(["remove", "replace", "huge", "add", "type", "rename", "nest"])):
        case "remove":
            config.pop(name, None)
        case "replace":
            config[draw(st.sampled_from(NAMES))] = draw(json_values)
        case "huge":
            config[name] = draw(HUGE)
        case "add":
            config[draw(st.text(max_size=12))] = draw(json_values)
        case "type":
            config["model_type"] = draw(st.sampled_from([one["model_type"] for one in ALL]))
        case "rename":
            config[name + "s"] = config.pop(name, None)
        case "nest":
            config = {draw(st.sampled_from(["text_config", "model_type", "a"])): config}
    return config


def meaning(config: object) -> dict[str, Any]:
    """What decides the number of parameters, in the form of `stack.meaning.of_config`.

    Raises UsageError: config.*.
    """
    model = model_spec_from_config(config, name="model", origin="config.json")
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
        "bias": model.linear_bias,
        "attention": asdict(model.attention),
        "linear_attention": model.linear_attention and asdict(model.linear_attention),
        "linear_layers": list(model.linear_layers),
        "window": model.sliding_window,
        "window_layers": list(model.window_layers),
        "moe_layers": list(model.moe_layers),
        "dense_ffn_hidden_size": model.dense_ffn_hidden_size,
        "moe": None if model.moe is None else asdict(model.moe),
    }
