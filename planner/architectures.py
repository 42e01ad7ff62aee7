"""The architectures that the planner knows: a table of the fields of config.json for each.

A field is read (`Integer`, `Boolean`), or has only the values that the stack can build (`OneOf`),
or does not bear on the number of parameters (`IRRELEVANT`). Any other field of a config.json is
refused by `planner.model_config`. What the stack builds was read from mcore-bridge 1.6.5,
mcore_bridge/config/parser.py, and from the configuration classes of transformers 5.19, whose
defaults apply where a field is absent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Required:
    """Marks a field without which a config.json is incomplete."""


REQUIRED = Required()

# Methods whose weights are read as bf16 ones; AWQ, GPTQ and others lose what training needs.
TRAINABLE_QUANTIZATIONS = ("fp8",)

MAX_LAYERS = 1_000
MAX_SIZE = 1_000_000  # hidden sizes, heads, experts
MAX_VOCABULARY = 10_000_000
MAX_POSITIONS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer:
    """A whole number that is read; `null_means` stands for null where null is allowed."""

    minimum: int = 1
    maximum: int = MAX_SIZE
    default: int | Required | None = REQUIRED
    nullable: bool = False
    alias: str | None = None  # another name of the same field


@dataclass(frozen=True, slots=True, kw_only=True)
class Boolean:
    """A truth value that is read."""

    default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """A field with the values that the stack builds; `why` says what it does with others."""

    values: tuple[Any, ...]
    why: str
    default: Any = None  # what absence means; one of `values`, or REQUIRED


Rule = Integer | Boolean | OneOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How a model type is read; `experts` says whose names the fields of the experts have."""

    rules: Mapping[str, Rule]
    attention: str = "gqa"  # or "mla"
    experts: str | None = None  # "qwen" or "deepseek"; None: a dense model
    qkv_bias: bool = False  # unless the field qkv_bias says otherwise
    qk_layernorm: bool = False
    shared_expert_gate: bool = False


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Of every configuration class of transformers; none bears on a causal language model's parameters.
_OF_TRANSFORMERS = _names(
    """
    _name_or_path _commit_hash _attn_implementation_autoset auto_map bad_words_ids
    begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id id2label initializer_range
    label2id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_attentions output_hidden_states output_scores
    pad_token_id prefix problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
    tf_legacy_loss tokenizer_class top_k top_p torch_dtype torchscript transformers_version
    typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
    """
)

# Of decoders. Rotary embedding has no parameters. mcore-bridge drops sliding_window and layer_types
# of these types and builds full attention (parser.py:202-205).
_OF_DECODERS = _names(
    """
    attention_dropout layer_types max_window_layers pretraining_tp quantization_config
    rms_norm_eps rope_interleave rope_parameters rope_scaling rope_theta sliding_window
    use_mrope use_sliding_window
    """
)

# Of routing: they change which experts a token meets, not how many parameters these have.
_OF_ROUTING = _names(
    """
    aux_loss_alpha ep_size norm_topk_prob output_router_logits routed_scaling_factor
    router_aux_loss_coef seq_aux
    """
)

IRRELEVANT = _OF_TRANSFORMERS | _OF_DECODERS | _OF_ROUTING


def _decoder(class_name: str) -> dict[str, Rule]:
    """Rules that every architecture has."""
    only_causal = "only causal language models are planned"
    never = "the stack builds decoders only"
    return {
        "architectures": OneOf(values=(None, [class_name]), why=only_causal),
        "num_hidden_layers": Integer(maximum=MAX_LAYERS),
        "hidden_size": Integer(),
        "vocab_size": Integer(maximum=MAX_VOCABULARY),
        "num_attention_heads": Integer(),
        "num_key_value_heads": Integer(nullable=True),
        "max_position_embeddings": Integer(maximum=MAX_POSITIONS),
        "tie_word_embeddings": Boolean(default=False),
        "hidden_act": OneOf(
            values=("silu",), default="silu", why="mcore-bridge builds SwiGLU whatever it says"
        ),
        "is_encoder_decoder": OneOf(values=(None, False), why=never),
        "is_decoder": OneOf(values=(None, False, True), why=never),
        "add_cross_attention": OneOf(values=(None, False), why=never),
        "tie_encoder_decoder": OneOf(values=(None, False), why=never),
        "pruned_heads": OneOf(values=(None, {}), why="the stack does not build pruned heads"),
        "mlp_bias": OneOf(values=(None, False), why="these models have no bias there"),
    }


_NO_OUTPUT_BIAS = OneOf(
    values=(None, False), why="mcore-bridge then builds no bias of the output projection"
)
_EVERY_LAYER_SPARSE: dict[str, Rule] = {
    "decoder_sparse_step": OneOf(
        values=(None, 1), why="mcore-bridge makes every layer sparse and ignores it"
    ),
    "mlp_only_layers": OneOf(
        values=(None, []), why="mcore-bridge makes every layer sparse and ignores it"
    ),
    "intermediate_size": Integer(nullable=True, default=None),  # of dense layers: there are none
}
_ROUTED_EXPERTS: dict[str, Rule] = {
    "moe_intermediate_size": Integer(),
    "num_experts": Integer(alias="num_local_experts"),  # transformers 5 saves the alias
    "num_experts_per_tok": Integer(),
}
_BIAS_ALWAYS = OneOf(values=(None, True), why="Qwen2 has a bias on q, k and v")
_NORM_ALWAYS = OneOf(values=(None, True), why="mcore-bridge builds q and k norms for Qwen3")

ARCHITECTURES: dict[str, Architecture] = {
    "qwen2": Architecture(
        rules=_decoder("Qwen2ForCausalLM")
        | {
            "head_dim": Integer(nullable=True, default=None),
            "intermediate_size": Integer(),
            "attention_bias": _BIAS_ALWAYS,
            "qkv_bias": _BIAS_ALWAYS,
        },
        qkv_bias=True,
    ),
    "qwen2_moe": Architecture(
        rules=_decoder("Qwen2MoeForCausalLM")
        | _EVERY_LAYER_SPARSE
        | _ROUTED_EXPERTS
        | {
            "head_dim": Integer(nullable=True, default=None),
            "shared_expert_intermediate_size": Integer(),
            "qkv_bias": Boolean(default=True),
        },
        experts="qwen",
        shared_expert_gate=True,
    ),
    "qwen3": Architecture(
        rules=_decoder("Qwen3ForCausalLM")
        | {
            "head_dim": Integer(),
            "intermediate_size": Integer(),
            "attention_bias": _NO_OUTPUT_BIAS,
            "use_qk_norm": _NORM_ALWAYS,
        },
        qk_layernorm=True,
    ),
    "qwen3_moe": Architecture(
        rules=_decoder("Qwen3MoeForCausalLM")
        | _EVERY_LAYER_SPARSE
        | _ROUTED_EXPERTS
        | {
            "head_dim": Integer(),
            "attention_bias": _NO_OUTPUT_BIAS,
            "qkv_bias": OneOf(values=(None, False), why="Qwen3-MoE has no bias on q, k and v"),
            "use_qk_norm": _NORM_ALWAYS,
            "shared_expert_intermediate_size": OneOf(
                values=(None, 0), why="Qwen3-MoE has no shared expert"
            ),
        },
        experts="qwen",
        qk_layernorm=True,
    ),
    "deepseek_v3": Architecture(
        rules=_decoder("DeepseekV3ForCausalLM")
        | {
            "head_dim": Integer(nullable=True, default=None),  # of the rotary part; MLA has its own
            "qk_head_dim": Integer(nullable=True, default=None),  # transformers 5 saves the sum
            "intermediate_size": Integer(),
            "moe_intermediate_size": Integer(),
            "n_routed_experts": Integer(alias="num_local_experts"),
            "n_shared_experts": Integer(minimum=0, nullable=True),
            "num_experts_per_tok": Integer(),
            "n_group": Integer(nullable=True, default=None),  # of experts, to route by
            "topk_group": Integer(nullable=True, default=None),
            "first_k_dense_replace": Integer(minimum=0),
            "num_nextn_predict_layers": Integer(minimum=0, default=0, alias="num_mtp_layers"),
            "q_lora_rank": Integer(nullable=True),
            "kv_lora_rank": Integer(),
            "qk_nope_head_dim": Integer(),
            "qk_rope_head_dim": Integer(),
            "v_head_dim": Integer(),
            "attention_bias": _NO_OUTPUT_BIAS,
            "moe_layer_freq": OneOf(
                values=(None, 1), why="mcore-bridge reads first_k_dense_replace and ignores it"
            ),
            "scoring_func": OneOf(
                values=("sigmoid", "softmax"),
                default=REQUIRED,
                why="megatron-core has no other score function",
            ),
            "topk_method": OneOf(
                values=(None, "noaux_tc"), why="DeepSeek-V3 routes without an auxiliary loss"
            ),
        },
        attention="mla",
        experts="deepseek",
    ),
}
