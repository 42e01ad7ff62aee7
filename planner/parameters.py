"""Parameters of a model and of every rank, equal to what megatron-core builds.

The parts follow the Transformer Engine layer spec of megatron-core 0.16.1
(megatron/core/models/gpt/gpt_layer_specs.py) as mcore-bridge 1.6.5 builds it.
`tests/stack/test_parameters.py` holds every count against the real modules.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache

from planner.layout import Layout, PipelineSplit
from planner.model_spec import GroupedQueryAttention, ModelSpec, MultiLatentAttention
from planner.workload import TunerType, Workload


class Sharding(Enum):
    """How a part is divided among the ranks of one pipeline stage."""

    TENSOR = "tensor"  # over TP
    REPLICATED = "replicated"  # whole on every rank
    EXPERT = "expert"  # over EP, and over ETP inside an expert


class LinearKind(Enum):
    """How a linear layer is parallel; decides the shapes of its LoRA adapter."""

    COLUMN = "column"
    ROW = "row"
    DUPLICATED = "duplicated"


@dataclass(frozen=True, slots=True)
class Part:
    """Some parameters of a model: `elements` of the whole, before any sharding.

    `linear` is (in_features, out_features, kind) when LoRA on all linear layers adapts it; for
    routed experts the shape is that of one expert and `copies` is their number.
    """

    id: str
    elements: int
    sharding: Sharding
    linear: tuple[int, int, LinearKind] | None = None
    copies: int = 1


def _linear(
    part_id: str, in_features: int, out_features: int, kind: LinearKind, *, bias: bool = False
) -> Part:
    elements = in_features * out_features + (out_features if bias else 0)
    sharding = Sharding.REPLICATED if kind is LinearKind.DUPLICATED else Sharding.TENSOR
    return Part(part_id, elements, sharding, (in_features, out_features, kind))


def _norm(part_id: str, size: int) -> Part:
    return Part(part_id, size, Sharding.REPLICATED)


def _grouped_query_attention(hidden: int, attention: GroupedQueryAttention) -> Iterator[Part]:
    qkv = attention.query_size + 2 * attention.key_value_size
    yield _norm("input_layernorm", hidden)
    yield _linear("linear_qkv", hidden, qkv, LinearKind.COLUMN, bias=attention.qkv_bias)
    if attention.qk_layernorm:
        yield _norm("qk_layernorm", 2 * attention.head_dim)
    yield _linear("linear_proj", attention.query_size, hidden, LinearKind.ROW)


def _multi_latent_attention(hidden: int, attention: MultiLatentAttention) -> Iterator[Part]:
    queries = attention.num_heads * attention.qk_head_dim
    keys_values = attention.num_heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    latent = attention.kv_lora_rank + attention.qk_rope_head_dim
    yield _norm("input_layernorm", hidden)
    if attention.q_lora_rank is None:
        yield _linear("linear_q_proj", hidden, queries, LinearKind.COLUMN)
    else:
        rank = attention.q_lora_rank
        yield _linear("linear_q_down_proj", hidden, rank, LinearKind.DUPLICATED)
        yield _norm("q_layernorm", rank)
        yield _linear("linear_q_up_proj", rank, queries, LinearKind.COLUMN)
    yield _linear("linear_kv_down_proj", hidden, latent, LinearKind.DUPLICATED)
    yield _norm("kv_layernorm", attention.kv_lora_rank)
    yield _linear("linear_kv_up_proj", attention.kv_lora_rank, keys_values, LinearKind.COLUMN)
    yield _linear("linear_proj", attention.num_heads * attention.v_head_dim, hidden, LinearKind.ROW)


def _feed_forward(prefix: str, hidden: int, ffn: int) -> Iterator[Part]:
    yield _linear(f"{prefix}linear_fc1", hidden, 2 * ffn, LinearKind.COLUMN)
    yield _linear(f"{prefix}linear_fc2", ffn, hidden, LinearKind.ROW)


def _sparse_feed_forward(model: ModelSpec) -> Iterator[Part]:
    moe, hidden = model.moe, model.hidden_size
    assert moe is not None
    yield Part("router", moe.num_experts * hidden, Sharding.REPLICATED)
    ffn, experts = moe.ffn_hidden_size, moe.num_experts
    for part_id, in_features, out_features, kind in (
        ("experts.linear_fc1", hidden, 2 * ffn, LinearKind.COLUMN),
        ("experts.linear_fc2", ffn, hidden, LinearKind.ROW),
    ):
        elements = experts * in_features * out_features
        shape = (in_features, out_features, kind)
        yield Part(part_id, elements, Sharding.EXPERT, shape, copies=experts)
    if moe.shared_expert_intermediate_size:
        yield from _feed_forward("shared_experts.", hidden, moe.shared_expert_intermediate_size)
        if moe.shared_expert_gate:
            yield Part("shared_experts.gate", hidden, Sharding.REPLICATED)


@cache
def layer_parts(model: ModelSpec, is_moe_layer: bool) -> tuple[Part, ...]:
    """Parts of one decoder layer, sparse or dense."""
    hidden = model.hidden_size
    if isinstance(model.attention, GroupedQueryAttention):
        attention = _grouped_query_attention(hidden, model.attention)
    else:
        attention = _multi_latent_attention(hidden, model.attention)
    feed_forward = (
        _sparse_feed_forward(model)
        if is_moe_layer
        else _feed_forward("mlp.", hidden, model.dense_ffn_hidden_size)
    )
    return (*attention, _norm("pre_mlp_layernorm", hidden), *feed_forward)


@cache
def mtp_parts(model: ModelSpec) -> tuple[Part, ...]:
    """Parts of one multi-token-prediction layer: two norms, a projection, a decoder layer, a
    norm."""
    hidden = model.hidden_size
    return (
        _norm("mtp.enorm", hidden),
        _norm("mtp.hnorm", hidden),
        _linear("mtp.eh_proj", 2 * hidden, hidden, LinearKind.COLUMN),
        *layer_parts(model, model.moe_layers[-1]),
        _norm("mtp.final_layernorm", hidden),
    )


def embedding_part(model: ModelSpec) -> Part:
    """The word embedding, or the output layer: of one shape."""
    return Part("embedding", model.vocab_size * model.hidden_size, Sharding.TENSOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankParameters:
    """Parameters that one rank holds; `trainable_*` are those that have gradients and optimizer
    states."""

    dense: int  # everything but routed experts: sharded by the optimizer over dp*cp
    expert: int  # routed experts: over edp
    trainable_dense: int
    trainable_expert: int

    @property
    def total(self) -> int:
        """All parameters of the rank."""
        return self.dense + self.expert

    @property
    def trainable(self) -> int:
        """All trainable parameters of the rank."""
        return self.trainable_dense + self.trainable_expert

    def __add__(self, other: "RankParameters") -> "RankParameters":
        return RankParameters(
            dense=self.dense + other.dense,
            expert=self.expert + other.expert,
            trainable_dense=self.trainable_dense + other.trainable_dense,
            trainable_expert=self.trainable_expert + other.trainable_expert,
        )

    def __mul__(self, times: int) -> "RankParameters":
        return RankParameters(
            dense=self.dense * times,
            expert=self.expert * times,
            trainable_dense=self.trainable_dense * times,
            trainable_expert=self.trainable_expert * times,
        )


def _on_rank(part: Part, tp: int, ep: int, etp: int) -> int:
    if part.sharding is Sharding.TENSOR:
        return part.elements // tp
    if part.sharding is Sharding.EXPERT:
        return part.elements // (ep * etp)
    return part.elements


ALL_LINEAR = "all-linear"


def linear_parts(model: ModelSpec) -> list[Part]:
    """The linear layers of a model, that LoRA can adapt."""
    layers = [part for is_moe in set(model.moe_layers) for part in layer_parts(model, is_moe)]
    return [part for part in [*layers, *mtp_parts(model)] if part.linear is not None]


def names_of(part: Part) -> tuple[str, ...]:
    """What target_modules can call a linear layer: a module is meant whose name ends so (peft,
    tuners/tuners_utils.py: check_target_module_exists)."""
    names = part.id.split(".")
    return tuple(".".join(names[at:]) for at in range(len(names)))


def _is_adapted(part: Part, targets: tuple[str, ...]) -> bool:
    return ALL_LINEAR in targets or not set(names_of(part)).isdisjoint(targets)


def _adapter_on_rank(part: Part, rank: int, tp: int, ep: int, etp: int) -> int:
    """Elements of a LoRA adapter: A (in x r) and B (r x out).

    Source: mcore_bridge/tuners/lora.py, LoraParallelLinear.update_layer (1.6.5): a column-parallel
    layer has A whole and B sharded, a row-parallel one A sharded and B whole, a duplicated one both
    whole.
    """
    if part.linear is None:
        return 0
    in_features, out_features, kind = part.linear
    shards = etp if part.sharding is Sharding.EXPERT else tp
    a, b = in_features * rank, rank * out_features
    if kind is LinearKind.COLUMN:
        b //= shards
    elif kind is LinearKind.ROW:
        a //= shards
    return (a + b) * (part.copies // ep if part.sharding is Sharding.EXPERT else 1)


@cache
def _count(
    parts: tuple[Part, ...],
    tp: int,
    ep: int,
    etp: int,
    lora_rank: int | None,
    targets: tuple[str, ...],
) -> RankParameters:
    dense = expert = adapter_dense = adapter_expert = 0
    for part in parts:
        adapted = lora_rank is not None and _is_adapted(part, targets)
        adapter = _adapter_on_rank(part, lora_rank or 0, tp, ep, etp) if adapted else 0
        if part.sharding is Sharding.EXPERT:
            expert += _on_rank(part, tp, ep, etp)
            adapter_expert += adapter
        else:
            dense += _on_rank(part, tp, ep, etp)
            adapter_dense += adapter
    if lora_rank is None:
        adapter_dense, adapter_expert, adapters = dense, expert, 0
    else:
        adapters = 1
    return RankParameters(
        dense=dense + adapters * adapter_dense,
        expert=expert + adapters * adapter_expert,
        trainable_dense=adapter_dense,
        trainable_expert=adapter_expert,
    )


def _ends(model: ModelSpec, split: PipelineSplit, stage: int, mtp: int) -> tuple[Part, ...]:
    """Embedding, final norm, output layer and MTP of a stage.

    With more than one stage, a tied output layer and the embedding that MTP reads are copies
    (megatron-core 0.16.1, models/gpt/gpt_model.py: pre_process or mtp_process;
    share_embeddings_and_output_weights).
    """
    first, last = stage == 0, stage == split.num_stages - 1
    table = embedding_part(model)
    parts: list[Part] = []
    if first or (last and mtp):
        parts.append(table)
    if last:
        parts.append(_norm("final_layernorm", model.hidden_size))
        if not (model.tie_word_embeddings and first):
            parts.append(table)
        parts.extend(mtp_parts(model) * mtp)
    return tuple(parts)


def rank_parameters(
    model: ModelSpec, layout: Layout, workload: Workload, stage: int
) -> RankParameters:
    """Parameters of any rank of a stage (all ranks of a stage hold the same number)."""
    rank = workload.lora_rank if workload.tuner_type is TunerType.LORA else None
    sizes = (layout.tp, layout.ep, layout.etp, rank, workload.target_modules)
    num_moe = num_layers = 0
    for first, end in layout.split.chunks[stage]:
        num_layers += end - first
        num_moe += sum(model.moe_layers[first:end])
    total = _count(_ends(model, layout.split, stage, workload.mtp_num_layers), *sizes)
    if num_moe:
        total += _count(layer_parts(model, True), *sizes) * num_moe
    if num_layers > num_moe:
        total += _count(layer_parts(model, False), *sizes) * (num_layers - num_moe)
    return total


def linear_elements(model: ModelSpec, layout: Layout, workload: Workload, stage: int) -> int:
    """Elements of the weights of linear layers that any rank of a stage holds."""
    layers = [model.moe_layers[layer] for chunk in layout.split.layer_ids(stage) for layer in chunk]
    counts = Counter(
        part for is_moe in layers for part in layer_parts(model, is_moe) if part.linear is not None
    )
    if stage == layout.split.num_stages - 1:
        parts = [part for part in mtp_parts(model) if part.linear is not None]
        counts.update(parts * workload.mtp_num_layers)
    tp, ep, etp = layout.tp, layout.ep, layout.etp
    return sum(number * _on_rank(part, tp, ep, etp) for part, number in counts.items())


def model_parameters(model: ModelSpec, *, mtp_num_layers: int = 0) -> dict[str, int]:
    """Parameters of the whole model by part id; the sum is the model's size."""
    totals: dict[str, int] = {"embedding": embedding_part(model).elements}
    if not model.tie_word_embeddings:
        totals["output_layer"] = embedding_part(model).elements
    totals["final_layernorm"] = model.hidden_size
    parts = [part for is_moe in model.moe_layers for part in layer_parts(model, is_moe)]
    for part in [*parts, *mtp_parts(model) * mtp_num_layers]:
        totals[part.id] = totals.get(part.id, 0) + part.elements
    return totals


def active_parameters(model: ModelSpec) -> int:
    """Parameters that take part in one token's forward pass: of routed experts only the top-k,
    embedding included."""
    totals = model_parameters(model)
    experts = sum(size for part, size in totals.items() if part.startswith("experts."))
    if model.moe is None:
        return sum(totals.values())
    used = experts * model.moe.router_topk // model.moe.num_experts
    return sum(totals.values()) - experts + used
