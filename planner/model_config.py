"""Makes a `ModelSpec` of the content of a config.json, with the meaning that mcore-bridge gives it.

A field that is not in the tables of `planner.architectures` is refused: it may change the number of
parameters, and a guess would make every later number wrong.
"""

from collections.abc import Mapping
from typing import Any

from planner.architectures import ARCHITECTURES, Architecture
from planner.architectures.unread import UNREAD
from planner.config_fields import bad_field, check_multiple, inconsistent, read_fields
from planner.errors import UsageError
from planner.model_spec import (
    Attention,
    GatedDeltaNet,
    GroupedQueryAttention,
    MixtureOfExperts,
    ModelSpec,
    MultiLatentAttention,
    SparseIndexer,
    VisionTower,
)
from planner.vision import vision_parameters
from planner.yaml_files import shortened, suggestion

Fields = Mapping[str, Any]

# Methods whose weights mcore-bridge 1.6.5 reads as bf16 ones (bridge/gpt_bridge.py:89, 492); AWQ,
# GPTQ and others lose what training needs.
TRAINABLE_QUANTIZATIONS = ("fp8", "mxfp4")


def model_spec_from_config(config: object, *, name: str, origin: str) -> ModelSpec:
    """The model that the stack builds from a config.json.

    `origin` says where the config.json is. Raises UsageError, a message of the group config.*.
    """
    if not isinstance(config, dict):
        kind = type(config).__name__
        raise UsageError("config.not_object", origin=origin, kind=kind)
    model_type = _model_type(config, origin)
    architecture = ARCHITECTURES[model_type]
    quantization, vision = _quantization(config, origin), None
    if architecture.vision is not None:
        config, vision = _unwrap(config, architecture, model_type, origin)
    fields = read_fields(config, architecture.rules, model_type, origin)
    moe_layers = _moe_layers(fields, architecture, origin)
    return ModelSpec(
        name=name,
        model_type=model_type,
        num_layers=fields["num_hidden_layers"],
        hidden_size=fields["hidden_size"],
        vocab_size=fields["vocab_size"],
        tie_word_embeddings=fields["tie_word_embeddings"],
        attention=_attention(fields, architecture, origin),
        dense_ffn_hidden_size=0 if all(moe_layers) else fields["intermediate_size"],
        moe=_experts(fields, architecture, origin),
        moe_layers=moe_layers,
        mtp_num_layers=fields.get("mtp_num_layers", 0),
        max_position_embeddings=fields["max_position_embeddings"],
        linear_bias=architecture.linear_bias,
        linear_attention=_linear_attention(fields, origin),
        linear_layers=_linear_layers(fields, origin),
        sliding_window=fields["sliding_window"] if architecture.windowed else None,
        window_layers=_window_layers(fields, origin) if architecture.windowed else (),
        vision=vision,
        checkpoint_quantization=quantization,
        origin=origin,
    )


def _model_type(config: Fields, origin: str) -> str:
    """The model type, one that is known."""
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in UNREAD:
        why = UNREAD[model_type]
        raise UsageError("config.unread", origin=origin, model_type=model_type, why=why)
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise UsageError(
            "config.unknown_architecture",
            origin=origin,
            model_type=shortened(model_type),
            suggestion=suggestion(str(model_type), ARCHITECTURES),
        )
    return model_type


def _unwrap(
    config: Fields, architecture: Architecture, model_type: str, origin: str
) -> tuple[dict[str, Any], VisionTower]:
    """The config of the language model inside that of a multimodal one, and the vision tower."""
    parts = {}
    for name in ("text_config", "vision_config"):
        if name not in config:
            raise UsageError("config.missing_field", origin=origin, field=name)
        if not isinstance(config[name], dict):
            raise bad_field(origin, name, "an object", config[name])
        parts[name] = config[name]
    text, vision = parts["text_config"], parts["vision_config"]
    assert architecture.vision is not None
    outer = {name: value for name, value in config.items() if name not in parts}
    tied = outer.pop("tie_word_embeddings", False)
    read_fields(outer, architecture.wrapper, model_type, origin)
    inner_type = f"{model_type}_text"
    if text.get("model_type", inner_type) != inner_type:
        raise bad_field(origin, "text_config.model_type", inner_type, text["model_type"])
    # The language model's own word on tied embeddings wins (mcore_bridge/config/parser.py:181).
    text = {"tie_word_embeddings": tied} | text
    language = read_fields(text, architecture.rules, model_type, origin)
    sizes = read_fields(vision, architecture.vision, model_type, origin)
    tower = VisionTower(
        model_type=model_type,
        parameters=vision_parameters(model_type, sizes, language["hidden_size"], origin),
        has_flash_attention=architecture.vision_flash_attention,
    )
    return text, tower


def _attention(fields: Fields, architecture: Architecture, origin: str) -> Attention:
    """The attention of every layer that has no linear one."""
    heads = fields["num_attention_heads"]
    groups = fields["num_key_value_heads"] or heads
    if architecture.attention == "mla":
        return _latent_attention(fields, heads, groups, origin)
    check_multiple(fields, "num_attention_heads", "num_key_value_heads", origin)
    if fields["head_dim"] is None:
        check_multiple(fields, "hidden_size", "num_attention_heads", origin)
    norm = architecture.qk_layernorm
    if norm == "none" and fields.get("use_qk_norm"):
        norm = "head"
    return GroupedQueryAttention(
        num_heads=heads,
        num_query_groups=groups,
        head_dim=fields["head_dim"] or fields["hidden_size"] // heads,
        qkv_bias=bool(fields.get("qkv_bias")) or architecture.qkv_bias,
        qk_layernorm=norm,
        output_bias=architecture.output_bias,
        sinks=architecture.sinks,
        output_gate=architecture.output_gate,
    )


def _latent_attention(fields: Fields, heads: int, groups: int, origin: str) -> MultiLatentAttention:
    if groups != heads:
        raise inconsistent(
            origin,
            f"num_key_value_heads ({groups}) must equal num_attention_heads ({heads}) with MLA",
        )
    indexer = None
    if "index_n_heads" in fields:
        indexer = SparseIndexer(
            num_heads=fields["index_n_heads"],
            head_dim=fields["index_head_dim"],
            topk=fields["index_topk"],
        )
    return MultiLatentAttention(
        num_heads=heads,
        q_lora_rank=fields["q_lora_rank"],
        kv_lora_rank=fields["kv_lora_rank"],
        qk_nope_head_dim=fields["qk_nope_head_dim"],
        qk_rope_head_dim=fields["qk_rope_head_dim"],
        v_head_dim=fields["v_head_dim"],
        indexer=indexer,
    )


def _linear_attention(fields: Fields, origin: str) -> GatedDeltaNet | None:
    if "linear_num_key_heads" not in fields:
        return None
    check_multiple(fields, "linear_num_value_heads", "linear_num_key_heads", origin)
    return GatedDeltaNet(
        num_key_heads=fields["linear_num_key_heads"],
        num_value_heads=fields["linear_num_value_heads"],
        key_head_dim=fields["linear_key_head_dim"],
        value_head_dim=fields["linear_value_head_dim"],
        conv_kernel_dim=fields["linear_conv_kernel_dim"],
    )


def _linear_layers(fields: Fields, origin: str) -> tuple[bool, ...]:
    """Layers with linear attention: all but every full_attention_interval-th."""
    if "full_attention_interval" not in fields:
        return ()
    interval = fields["full_attention_interval"]
    layers = tuple((layer + 1) % interval != 0 for layer in range(fields["num_hidden_layers"]))
    words = ["linear_attention" if linear else "full_attention" for linear in layers]
    if fields["layer_types"] not in (None, words):
        raise inconsistent(
            origin,
            f"layer_types is not what full_attention_interval ({interval}) makes, which"
            " mcore-bridge reads",
        )
    return layers


def _window_layers(fields: Fields, origin: str) -> tuple[bool, ...]:
    """Layers that see only the sliding window: as listed, or every other one from the first."""
    number, words = fields["num_hidden_layers"], fields["layer_types"]
    if words is None:
        return tuple(layer % 2 == 0 for layer in range(number))
    if len(words) != number:
        equation = f"layer_types has {len(words)} entries for {number} layers"
        raise inconsistent(origin, equation)
    return tuple(word == "sliding_attention" for word in words)


def _experts(fields: Fields, architecture: Architecture, origin: str) -> MixtureOfExperts | None:
    """The sparse part of the sparse layers."""
    if not architecture.experts:
        return None
    width = fields["moe_intermediate_size"]
    shared = fields.get("shared_expert_intermediate_size")
    if "n_shared_experts" in fields:
        shared = (fields["n_shared_experts"] or 0) * width
    if fields.get("interleave_moe_layer_step"):  # Llama 4: one as wide as a routed expert
        shared = width
    score = fields.get("scoring_func") or architecture.router_score_function
    bias = architecture.router_expert_bias
    moe = MixtureOfExperts(
        num_experts=fields["num_experts"],
        router_topk=fields["num_experts_per_tok"],
        ffn_hidden_size=width,
        shared_expert_intermediate_size=shared or 0,
        shared_expert_gate=architecture.shared_expert_gate,
        router_score_function=score,
        # mcore_bridge/config/parser.py:434
        router_expert_bias=score == "sigmoid" if bias is None else bias,
    )
    chosen, groups = fields.get("topk_group"), fields.get("n_group")
    if chosen and groups and chosen > groups:
        raise inconsistent(origin, f"topk_group ({chosen}) exceeds the {groups} groups of n_group")
    if moe.router_topk > moe.num_experts:
        equation = f"num_experts_per_tok ({moe.router_topk}) exceeds the {moe.num_experts} experts"
        raise inconsistent(origin, equation)
    return moe


def _moe_layers(fields: Fields, architecture: Architecture, origin: str) -> tuple[bool, ...]:
    """Which layers are sparse: all from one on, or every step-th."""
    number: int = fields["num_hidden_layers"]
    if not architecture.experts:
        return (False,) * number
    step: int = fields.get("interleave_moe_layer_step", 1)
    first: int = fields.get("first_k_dense_replace", 0)
    last = fields.get("moe_layer_end_index")
    if last not in (None, -1) and last < number - 1:
        equation = (
            f"moe_layer_end_index ({last}) ends the sparse layers before the last of {number}"
        )
        raise inconsistent(origin, f"{equation}, which mcore-bridge ignores")
    layers = tuple(layer >= first and (layer + 1) % step == 0 for layer in range(number))
    if not any(layers):
        name = "first_k_dense_replace" if first else "interleave_moe_layer_step"
        raise inconsistent(
            origin, f"{name} ({first or step}) leaves none of the {number} layers sparse"
        )
    return layers


def _quantization(config: Fields, origin: str) -> str | None:
    """How the weights of the checkpoint are quantized, in the file's word; None: they are not."""
    quantization = config.get("quantization_config")
    if quantization is None:
        return None
    if not isinstance(quantization, dict):
        raise bad_field(origin, "quantization_config", "an object or null", quantization)
    method = quantization.get("quant_method")
    if method not in TRAINABLE_QUANTIZATIONS:
        name = "an unnamed method" if method is None else shortened(method).strip("'")
        raise UsageError("config.quantized", origin=origin, method=name)
    return str(method)
