"""What config.json means, and what is refused instead of guessed."""

import math
from typing import Any

import pytest
from hypothesis import given, settings

from planner.architectures import ARCHITECTURES
from planner.architectures.rules import IRRELEVANT, Anything, Required
from planner.architectures.unread import UNREAD
from planner.errors import UsageError
from planner.model_config import model_spec_from_config
from planner.model_spec import GroupedQueryAttention, ModelSpec, MultiLatentAttention
from tests.inputs.configs import ALL, BUNDLED, IDS, QWEN2_57B_A14B, QWEN3_8B, spoiled_configs


def spec(config: object, **changes: Any) -> ModelSpec:
    if isinstance(config, dict):
        config = {name: value for name, value in (config | changes).items() if value is not ...}
    return model_spec_from_config(config, name="model", origin="config.json")


def refusal(config: object, **changes: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        spec(config, **changes)
    assert "\n" not in caught.value.message + caught.value.fix
    return caught.value


def test_qwen3_moe() -> None:
    model = spec(BUNDLED["Qwen3-30B-A3B"])

    assert model.attention == GroupedQueryAttention(
        num_heads=32, num_query_groups=4, head_dim=128, qkv_bias=False, qk_layernorm="head"
    )
    assert model.moe is not None
    assert (model.moe.num_experts, model.moe.router_topk, model.moe.ffn_hidden_size) == (
        128,
        8,
        768,
    )
    assert model.moe.shared_expert_intermediate_size == 0
    assert not model.moe.router_expert_bias
    assert model.moe_layers == (True,) * 48
    assert (model.dense_ffn_hidden_size, model.mtp_num_layers) == (0, 0)
    assert (model.hidden_size, model.vocab_size) == (2048, 151936)
    assert not model.tie_word_embeddings


def test_deepseek_v3() -> None:
    model = spec(BUNDLED["DeepSeek-V3"])

    assert model.attention == MultiLatentAttention(
        num_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
    )
    assert model.moe is not None
    assert model.moe.shared_expert_intermediate_size == 2048
    assert (model.moe.router_score_function, model.moe.router_expert_bias) == ("sigmoid", True)
    assert model.moe_layers == (False,) * 3 + (True,) * 58
    assert (model.dense_ffn_hidden_size, model.mtp_num_layers) == (18432, 1)
    assert model.checkpoint_quantization == "fp8"


def test_qwen2_is_dense_and_has_a_bias_on_q_k_and_v() -> None:
    model = spec(BUNDLED["Qwen2.5-7B"])

    assert model.attention == GroupedQueryAttention(
        num_heads=28, num_query_groups=4, head_dim=128, qkv_bias=True, qk_layernorm="none"
    )
    assert model.moe is None and not model.is_moe
    assert model.moe_layers == (False,) * 28
    assert model.dense_ffn_hidden_size == 18944


def test_qwen2_moe_has_a_gated_shared_expert() -> None:
    model = spec(QWEN2_57B_A14B)

    assert model.moe is not None
    assert model.moe.shared_expert_intermediate_size == 20480
    assert model.moe.shared_expert_gate
    assert isinstance(model.attention, GroupedQueryAttention) and model.attention.qkv_bias


def test_qwen3_is_dense_and_has_norms_on_q_and_k() -> None:
    model = spec(QWEN3_8B)

    assert isinstance(model.attention, GroupedQueryAttention)
    assert model.attention.qk_layernorm == "head" and not model.attention.qkv_bias


def test_transformers_5_calls_the_number_of_experts_otherwise() -> None:
    config = BUNDLED["Qwen3-30B-A3B"]

    assert spec(config, num_experts=..., num_local_experts=128) == spec(config)
    assert refusal(config, num_local_experts=64).message_id == "config.inconsistent"


def test_queries_of_deepseek_may_be_projected_directly() -> None:
    attention = spec(BUNDLED["DeepSeek-V3"], q_lora_rank=None).attention

    assert isinstance(attention, MultiLatentAttention) and attention.q_lora_rank is None


def test_as_many_key_value_heads_as_heads_when_null() -> None:
    attention = spec(BUNDLED["Qwen2.5-7B"], num_key_value_heads=None).attention

    assert isinstance(attention, GroupedQueryAttention) and attention.num_query_groups == 28


@pytest.mark.parametrize("config", ALL, ids=IDS)
def test_no_field_that_is_read_may_be_missing_unless_it_has_a_default(
    config: dict[str, Any],
) -> None:
    architecture = ARCHITECTURES[config["model_type"]]
    inner = config if architecture.vision is None else config["text_config"]
    for rule_name, rule in architecture.rules.items():
        names = [name for name in rule.names or (rule_name,) if name in inner]
        if len(names) != 1 or not isinstance(rule.default, Required):
            continue
        without = {name: value for name, value in inner.items() if name not in names}
        whole = without if inner is config else config | {"text_config": without}
        error = refusal(whole)
        assert error.message_id == "config.missing_field", names


@pytest.mark.parametrize(
    ("name", "change", "message_id"),
    [
        ("Qwen3-30B-A3B", {"num_experts": 0}, "config.bad_field"),
        ("Qwen3-30B-A3B", {"num_experts": -8}, "config.bad_field"),
        ("Qwen3-30B-A3B", {"num_experts": "128"}, "config.bad_field"),
        ("Qwen3-30B-A3B", {"num_experts": 128.0}, "config.bad_field"),
        ("Qwen3-30B-A3B", {"num_experts": True}, "config.bad_field"),
        ("Qwen3-30B-A3B", {"num_experts": None}, "config.bad_field"),
        ("Qwen3-30B-A3B", {"hidden_size": 10**30}, "config.bad_field"),
        ("Qwen3-30B-A3B", {"hidden_size": math.nan}, "config.bad_field"),
        (
            "Qwen3-30B-A3B",
            {"num_experts": math.nan, "num_local_experts": float("nan")},
            "config.bad_field",
        ),
        ("Qwen3-30B-A3B", {"num_local_experts": math.nan}, "config.inconsistent"),
        ("Qwen3-30B-A3B", {"num_hidden_layers": 10**6}, "config.bad_field"),
        ("Qwen3-30B-A3B", {"tie_word_embeddings": "no"}, "config.bad_field"),
        ("Qwen3-30B-A3B", {"num_attention_heads": 30}, "config.inconsistent"),
        ("Qwen2.5-7B", {"hidden_size": 3585}, "config.inconsistent"),
        ("Qwen3-30B-A3B", {"num_experts_per_tok": 129}, "config.inconsistent"),
        ("DeepSeek-V3", {"first_k_dense_replace": 61}, "config.inconsistent"),
        ("DeepSeek-V3", {"num_key_value_heads": 8}, "config.inconsistent"),
        # what mcore-bridge would silently build otherwise
        ("Qwen3-30B-A3B", {"mlp_only_layers": [0]}, "config.unsupported_value"),
        ("Qwen3-30B-A3B", {"decoder_sparse_step": 2}, "config.unsupported_value"),
        ("Qwen3-30B-A3B", {"attention_bias": True}, "config.unsupported_value"),
        ("Qwen3-30B-A3B", {"hidden_act": "gelu"}, "config.unsupported_value"),
        ("Qwen3-30B-A3B", {"use_qk_norm": False}, "config.unsupported_value"),
        ("Qwen3-30B-A3B", {"use_qk_norm": 1}, "config.unsupported_value"),
        ("Qwen2.5-7B", {"attention_bias": False}, "config.unsupported_value"),
        ("DeepSeek-V3", {"moe_layer_freq": 2}, "config.unsupported_value"),
        ("DeepSeek-V3", {"scoring_func": "tanh"}, "config.unsupported_value"),
        ("DeepSeek-V3", {"topk_method": "greedy"}, "config.unsupported_value"),
        (
            "Qwen2.5-7B",
            {"architectures": ["Qwen2ForSequenceClassification"]},
            "config.unsupported_value",
        ),
        # what nobody here knows
        ("Qwen3-30B-A3B", {"num_expert": 128}, "config.unknown_field"),
        ("Qwen3-30B-A3B", {"n_shared_experts": 1}, "config.unknown_field"),
        ("Qwen3-30B-A3B", {"vision_config": {}}, "config.unknown_field"),
        ("Qwen2.5-7B", {"model_type": "mamba"}, "config.unknown_architecture"),
        ("Qwen2.5-7B", {"model_type": ...}, "config.unknown_architecture"),
        ("Qwen2.5-7B", {"model_type": ["qwen2"]}, "config.unknown_architecture"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_by_name(
    name: str, change: dict[str, Any], message_id: str
) -> None:
    error = refusal(BUNDLED[name], **change)
    field = next(iter(change))

    assert error.message_id == message_id
    assert field.removeprefix("model_") in error.message.replace("model type", "type")


def test_an_unknown_field_is_told_with_the_nearest_known_one() -> None:
    assert "num_experts" in refusal(BUNDLED["Qwen3-30B-A3B"], num_expert=128).fix


def test_an_unknown_architecture_is_told_with_the_known_ones() -> None:
    fix = refusal({"model_type": "hyena-9"}).fix

    assert [name for name in ARCHITECTURES if name not in fix] == []


@pytest.mark.parametrize("model_type", UNREAD)
def test_a_type_that_ms_swift_trains_and_nobody_reads_here_is_refused_by_name(
    model_type: str,
) -> None:
    error = refusal({"model_type": model_type, "hidden_size": 64})

    assert error.message_id == "config.unread"
    assert model_type in error.message and UNREAD[model_type] in error.message


@pytest.mark.parametrize("config", [[], None, "config", 3])
def test_only_an_object_is_a_config(config: object) -> None:
    assert refusal(config).message_id == "config.not_object"


@pytest.mark.parametrize("config", ALL, ids=IDS)
def test_fields_that_are_called_irrelevant_change_nothing(config: dict[str, Any]) -> None:
    expected = spec(config, quantization_config=...)
    rules = ARCHITECTURES[config["model_type"]].rules
    free = (
        set()
        if "text_config" in config
        else {name for name, rule in rules.items() if isinstance(rule, Anything)}
    )
    for field in IRRELEVANT - {"quantization_config"} | free:
        assert spec(config, **({"quantization_config": ...} | {field: 7})) == expected


@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors", None, 7, ["fp8"]])
def test_weights_that_cannot_be_trained_are_refused_by_name(method: object) -> None:
    error = refusal(QWEN3_8B, quantization_config={"quant_method": method, "bits": 4})

    assert error.message_id == "config.quantized"
    assert ("an unnamed method" if method is None else str(method).strip("'")) in error.message
    assert refusal(QWEN3_8B, quantization_config=7).message_id == "config.bad_field"
    assert spec(QWEN3_8B, quantization_config=None).checkpoint_quantization is None


def test_no_more_groups_are_chosen_than_there_are() -> None:
    error = refusal(BUNDLED["DeepSeek-V3"], topk_group=9)

    assert "topk_group (9) exceeds the 8 groups of n_group" in error.message
    spec(BUNDLED["DeepSeek-V3"], topk_group=8)


def test_no_field_is_both_read_and_irrelevant() -> None:
    for architecture in ARCHITECTURES.values():
        for table in (architecture.rules, architecture.wrapper, architecture.vision or {}):
            names = {name for key, rule in table.items() for name in rule.names or (key,)}
            assert not IRRELEVANT & names


def test_no_field_has_two_meanings() -> None:
    for architecture in ARCHITECTURES.values():
        for table in (architecture.rules, architecture.wrapper, architecture.vision or {}):
            names = [name for key, rule in table.items() for name in rule.names or (key,)]
            assert len(names) == len(set(names))


@settings(max_examples=2500)
@given(spoiled_configs())
def test_a_spoiled_config_gives_a_sound_model_or_one_clear_line(config: object) -> None:
    try:
        model = spec(config)
    except UsageError as error:
        assert len(error.message) < 400 and "\n" not in error.message + error.fix
        return
    assert len(model.moe_layers) == model.num_layers >= 1
    assert any(model.moe_layers) == model.is_moe
    assert (model.dense_ffn_hidden_size > 0) == (not all(model.moe_layers))
    assert 1 <= model.hidden_size <= 10**6
