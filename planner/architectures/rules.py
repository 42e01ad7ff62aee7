"""What a table of an architecture is made of: rules for the fields of config.json.

A field is read (`Integer`, `Boolean`), or has only the values that the stack can build (`OneOf`),
or does not bear on the number of parameters (`IRRELEVANT`). Any other field of a config.json is
refused by `planner.model_config`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from planner.model_spec import QkLayernorm


class Required:
    """Marks a field without which a config.json is incomplete."""


REQUIRED = Required()

MAX_LAYERS = 1_000
MAX_SIZE = 1_000_000  # hidden sizes, heads, experts
MAX_VOCABULARY = 10_000_000
MAX_POSITIONS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer:
    """A whole number that is read. `names` are what files call it; empty: as its rule is called."""

    minimum: int = 1
    maximum: int = MAX_SIZE
    default: int | Required | None = REQUIRED
    nullable: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Boolean:
    """A truth value that is read."""

    default: bool
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """A field with the values that the stack builds; `why` says what it does with others."""

    values: tuple[Any, ...]
    why: str
    default: Any = None  # what absence means; one of `values`, or REQUIRED
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A list with a word for every layer; it may be absent or null."""

    words: tuple[str, ...]
    names: tuple[str, ...] = ()
    default: None = None


@dataclass(frozen=True, slots=True)
class Anything:
    """A field that bears on nothing that is counted, of one architecture only."""

    names: tuple[str, ...] = ()
    default: None = None


ANYTHING = Anything()

Rule = Integer | Boolean | OneOf | Pattern | Anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How a model type is read.

    Rules have one name for one thing, whatever files call it. What follows from the model type
    alone, and is no field, stands here.
    """

    rules: Mapping[str, Rule]
    attention: Literal["gqa", "mla"] = "gqa"
    experts: bool = True
    qkv_bias: bool = False  # unless a field says otherwise
    output_bias: bool = False
    qk_layernorm: QkLayernorm = "none"  # unless use_qk_norm says otherwise
    sinks: bool = False
    output_gate: bool = False
    linear_bias: bool = False
    shared_expert_gate: bool = False
    router_score_function: str = "softmax"  # unless scoring_func says otherwise
    router_expert_bias: bool | None = None  # None: with sigmoid, as mcore-bridge does
    windowed: bool = False  # whether the stack keeps the sliding window
    vision: Mapping[str, Rule] | None = None  # rules of vision_config; the rest is in text_config
    vision_flash_attention: bool = True
    wrapper: Mapping[str, Rule] = field(default_factory=dict)  # beside text_config
    not_trained: str | None = None  # why ms-swift's Megatron commands refuse it
    trained_since: str = "3.12"  # the first release of ms-swift that trains it with Megatron


def names(text: str) -> frozenset[str]:
    """The words of a text, each once."""
    return frozenset(text.split())


# Of every configuration class of transformers; none bears on a causal language model's parameters.
_OF_TRANSFORMERS = names(
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
# of most types and builds full attention (parser.py:202-205); where it keeps them, they are read.
_OF_DECODERS = names(
    """
    attention_dropout max_window_layers partial_rotary_factor pretraining_tp quantization_config
    rms_norm_eps rope_interleave rope_parameters rope_scaling rope_theta use_mrope
    use_sliding_window
    """
)

# Of routing: they change which experts a token meets, not how many parameters these have.
_OF_ROUTING = names(
    """
    aux_loss_alpha ep_size norm_topk_prob output_router_logits routed_scaling_factor
    router_aux_loss_coef router_jitter_noise seq_aux
    """
)

IRRELEVANT = _OF_TRANSFORMERS | _OF_DECODERS | _OF_ROUTING


def irrelevant(text: str) -> dict[str, Rule]:
    """Rules for fields of one architecture that bear on nothing that is counted."""
    return dict.fromkeys(names(text), ANYTHING)


def only_causal(class_names: tuple[str, ...]) -> OneOf:
    """A rule of `architectures`."""
    values = (None, *([name] for name in class_names))
    return OneOf(values=values, why="only causal language models are planned")


def decoder(*class_names: str) -> dict[str, Rule]:
    """Rules that every architecture has, those of grouped-query attention among them."""
    never = "the stack builds decoders only"
    return {
        "architectures": only_causal(class_names),
        "num_hidden_layers": Integer(maximum=MAX_LAYERS),
        "hidden_size": Integer(),
        "vocab_size": Integer(maximum=MAX_VOCABULARY),
        "num_attention_heads": Integer(),
        "num_key_value_heads": Integer(nullable=True),
        "head_dim": Integer(nullable=True, default=None),
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
        "sliding_window": ANYTHING,
        "layer_types": ANYTHING,
    }


NO_OUTPUT_BIAS = OneOf(
    values=(None, False), why="mcore-bridge then builds no bias of the output projection"
)
NO_QKV_BIAS = OneOf(values=(None, False), why="these models have no bias on q, k and v")
BIAS_ALWAYS = OneOf(values=(None, True), why="these models have a bias on q, k and v")
NORM_ALWAYS = OneOf(values=(None, True), why="mcore-bridge builds norms of q and k")

EVERY_LAYER_SPARSE: dict[str, Rule] = {
    "decoder_sparse_step": OneOf(
        values=(None, 1), why="mcore-bridge makes every layer sparse and ignores it"
    ),
    "mlp_only_layers": OneOf(
        values=(None, []), why="mcore-bridge makes every layer sparse and ignores it"
    ),
    "intermediate_size": Integer(nullable=True, default=None),  # of dense layers: there are none
}


def routed_experts(
    *,
    number: tuple[str, ...] = ("num_experts", "num_local_experts"),
    topk: tuple[str, ...] = (),
    width: tuple[str, ...] = (),
) -> dict[str, Rule]:
    """Rules of routed experts, by what files call their number, the top-k and their width.

    transformers 5 saves the number of some types by another name (`attribute_map`).
    """
    return {
        "moe_intermediate_size": Integer(names=width),
        "num_experts": Integer(names=number),
        "num_experts_per_tok": Integer(names=topk),
    }


def scoring(function: str) -> OneOf:
    """A rule of scoring_func for types whose score function is fixed."""
    return OneOf(values=(None, function), why=f"mcore-bridge routes with {function} whatever it is")
