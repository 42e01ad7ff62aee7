"""Real and made-up config.json contents, and ways to spoil them."""

import json
from typing import Any

from hypothesis import strategies as st

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
    """A real config.json with fields removed, renamed, replaced or added, or nested in another."""
    config = dict(draw(st.sampled_from(ALL)))
    names = sorted({name for one in ALL for name in one})
    for _ in range(draw(st.integers(1, 4))):
        match draw(st.sampled_from(["remove", "replace", "add", "rename", "nest"])):
            case "remove":
                config.pop(draw(st.sampled_from(sorted(config) or [""])), None)
            case "replace":
                config[draw(st.sampled_from(names))] = draw(json_values)
            case "add":
                config[draw(st.text(max_size=12))] = draw(json_values)
            case "rename":
                name = draw(st.sampled_from(sorted(config) or [""]))
                config[name + "s"] = config.pop(name, None)
            case "nest":
                config = {draw(st.sampled_from(["text_config", "model_type", "a"])): config}
    return draw(st.sampled_from([config] * 9 + [[config]]))
