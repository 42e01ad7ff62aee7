"""Makes a `ModelSpec` of the content of a config.json, with the meaning that mcore-bridge gives it.

A field that is not in the tables of `planner.architectures` is refused: it may change the number of
parameters, and a guess would make every later number wrong.
"""

from collections.abc import Mapping
from typing import Any

from planner.architectures import (
    ARCHITECTURES,
    IRRELEVANT,
    TRAINABLE_QUANTIZATIONS,
    Architecture,
    Boolean,
    Integer,
    OneOf,
    Required,
    Rule,
)
from planner.errors import UsageError
from planner.model_spec import (
    Attention,
    GroupedQueryAttention,
    MixtureOfExperts,
    ModelSpec,
    MultiLatentAttention,
)
from planner.yaml_files import shortened, suggestion

Fields = Mapping[str, Any]


def model_spec_from_config(config: object, *, name: str, origin: str) -> ModelSpec:
    """The model that the stack builds from a config.json.

    `origin` says where the config.json is. Raises UsageError, a message of the group config.*.
    """
    if not isinstance(config, dict):
        kind = type(config).__name__
        raise UsageError("config.not_object", origin=origin, kind=kind)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise UsageError(
            "config.unknown_architecture",
            origin=origin,
            model_type=shortened(model_type),
            suggestion=suggestion(str(model_type), ARCHITECTURES),
        )
    architecture = ARCHITECTURES[model_type]
    fields = _read_fields(config, architecture, model_type, origin)
    first_sparse = _first_sparse_layer(fields, architecture, origin)
    return ModelSpec(
        name=name,
        model_type=model_type,
        num_layers=fields["num_hidden_layers"],
        hidden_size=fields["hidden_size"],
        vocab_size=fields["vocab_size"],
        tie_word_embeddings=fields["tie_word_embeddings"],
        attention=_attention(fields, architecture, origin),
        dense_ffn_hidden_size=fields["intermediate_size"] if first_sparse else 0,
        moe=_experts(fields, architecture, origin),
        moe_layers=tuple(layer >= first_sparse for layer in range(fields["num_hidden_layers"])),
        mtp_num_layers=fields.get("num_nextn_predict_layers", 0),
        max_position_embeddings=fields["max_position_embeddings"],
        checkpoint_quantization=_quantization(config, origin),
        origin=origin,
    )


def _read_fields(
    config: Fields, architecture: Architecture, model_type: str, origin: str
) -> dict[str, Any]:
    """The values of all rules of an architecture, by the field's first name."""
    rules = architecture.rules
    aliases = {
        rule.alias: name
        for name, rule in rules.items()
        if isinstance(rule, Integer) and rule.alias is not None
    }
    for name in config:
        if name not in rules and name not in aliases and name not in IRRELEVANT | {"model_type"}:
            raise UsageError(
                "config.unknown_field",
                origin=origin,
                field=shortened(name),
                value=shortened(config[name]),
                model_type=model_type,
                suggestion=suggestion(name, rules),
            )
    given = {aliases.get(name, name): value for name, value in config.items()}
    for alias, name in aliases.items():
        if alias in config and name in config and config[alias] != config[name]:
            raise _inconsistent(origin, f"{alias} and {name} are two names of one field and differ")
    return {name: _read(given, name, rule, origin) for name, rule in rules.items()}


def _read(given: Fields, name: str, rule: Rule, origin: str) -> Any:
    """The checked value of one field."""
    if name not in given:
        if isinstance(rule.default, Required):
            raise UsageError("config.missing_field", origin=origin, field=name)
        return rule.default
    value = given[name]
    match rule:
        case OneOf():
            if not any(value == one and type(value) is type(one) for one in rule.values):
                raise UsageError(
                    "config.unsupported_value",
                    origin=origin,
                    field=name,
                    value=shortened(value),
                    allowed=" or ".join(repr(one) for one in rule.values if one is not None),
                    why=rule.why,
                )
        case Boolean():
            if not isinstance(value, bool):
                raise _bad_field(origin, name, "true or false", value)
        case Integer():
            if value is None and rule.nullable:
                return None
            if type(value) is not int or not rule.minimum <= value <= rule.maximum:
                expected = f"a whole number from {rule.minimum} to {rule.maximum}"
                raise _bad_field(origin, name, expected, value)
    return value


def _attention(fields: Fields, architecture: Architecture, origin: str) -> Attention:
    """The attention of every layer."""
    heads = fields["num_attention_heads"]
    groups = fields["num_key_value_heads"] or heads
    if architecture.attention == "mla":
        if groups != heads:
            raise _inconsistent(
                origin,
                f"num_key_value_heads ({groups}) must equal num_attention_heads ({heads}) with MLA",
            )
        return MultiLatentAttention(
            num_heads=heads,
            q_lora_rank=fields["q_lora_rank"],
            kv_lora_rank=fields["kv_lora_rank"],
            qk_nope_head_dim=fields["qk_nope_head_dim"],
            qk_rope_head_dim=fields["qk_rope_head_dim"],
            v_head_dim=fields["v_head_dim"],
        )
    _check_multiple(fields, "num_attention_heads", "num_key_value_heads", origin)
    if fields["head_dim"] is None:
        _check_multiple(fields, "hidden_size", "num_attention_heads", origin)
    return GroupedQueryAttention(
        num_heads=heads,
        num_query_groups=groups,
        head_dim=fields["head_dim"] or fields["hidden_size"] // heads,
        qkv_bias=fields.get("qkv_bias") or architecture.qkv_bias,
        qk_layernorm=architecture.qk_layernorm,
    )


def _experts(fields: Fields, architecture: Architecture, origin: str) -> MixtureOfExperts | None:
    """The sparse part of the sparse layers."""
    match architecture.experts:
        case "qwen":
            moe = MixtureOfExperts(
                num_experts=fields["num_experts"],
                router_topk=fields["num_experts_per_tok"],
                ffn_hidden_size=fields["moe_intermediate_size"],
                shared_expert_intermediate_size=fields["shared_expert_intermediate_size"] or 0,
                shared_expert_gate=architecture.shared_expert_gate,
                router_score_function="softmax",
                router_expert_bias=False,
            )
        case "deepseek":
            width = fields["moe_intermediate_size"]
            moe = MixtureOfExperts(
                num_experts=fields["n_routed_experts"],
                router_topk=fields["num_experts_per_tok"],
                ffn_hidden_size=width,
                shared_expert_intermediate_size=(fields["n_shared_experts"] or 0) * width,
                shared_expert_gate=False,
                router_score_function=fields["scoring_func"],
                router_expert_bias=fields["scoring_func"] == "sigmoid",  # parser.py:434
            )
            chosen, groups = fields["topk_group"], fields["n_group"]
            if chosen and groups and chosen > groups:
                raise _inconsistent(
                    origin, f"topk_group ({chosen}) exceeds the {groups} groups of n_group"
                )
        case _:
            return None
    if moe.router_topk > moe.num_experts:
        equation = f"num_experts_per_tok ({moe.router_topk}) exceeds the {moe.num_experts} experts"
        raise _inconsistent(origin, equation)
    return moe


def _first_sparse_layer(fields: Fields, architecture: Architecture, origin: str) -> int:
    """The number of dense layers, all of them before the sparse ones."""
    num_layers: int = fields["num_hidden_layers"]
    if architecture.experts is None:
        return num_layers
    first: int = fields.get("first_k_dense_replace", 0)
    if first >= num_layers:
        equation = f"first_k_dense_replace ({first}) leaves none of the {num_layers} layers sparse"
        raise _inconsistent(origin, equation)
    return first


def _quantization(config: Fields, origin: str) -> str | None:
    """How the weights of the checkpoint are quantized, in the file's word; None: they are not."""
    quantization = config.get("quantization_config")
    if quantization is None:
        return None
    if not isinstance(quantization, dict):
        raise _bad_field(origin, "quantization_config", "an object or null", quantization)
    method = quantization.get("quant_method")
    if method not in TRAINABLE_QUANTIZATIONS:
        name = "an unnamed method" if method is None else shortened(method).strip("'")
        raise UsageError("config.quantized", origin=origin, method=name)
    return str(method)


def _check_multiple(fields: Fields, name: str, divisor: str, origin: str) -> None:
    value, by = fields[name], fields[divisor]
    if by is not None and value % by != 0:
        raise _inconsistent(origin, f"{name} ({value}) is not a multiple of {divisor} ({by})")


def _inconsistent(origin: str, equation: str) -> UsageError:
    return UsageError("config.inconsistent", origin=origin, equation=equation)


def _bad_field(origin: str, name: str, expected: str, value: object) -> UsageError:
    return UsageError(
        "config.bad_field", origin=origin, field=name, expected=expected, value=shortened(value)
    )
