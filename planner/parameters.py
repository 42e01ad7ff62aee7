"""Parameters of every rank and of a whole model, equal to what megatron-core builds.

`tests/stack/test_parameters.py` holds every count against the real modules.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache

from planner.layout import Layout, PipelineSplit
from planner.model_spec import LayerKind, ModelSpec
from planner.parts import (
    LinearKind,
    Part,
    Sharding,
    embedding_part,
    layer_parts,
    mtp_parts,
    norm_part,
)
from planner.workload import TunerType, Workload


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
    match part.sharding:
        case Sharding.TENSOR:
            return -(-part.elements // (part.indivisible * tp)) * part.indivisible
        case Sharding.EXPERT:
            return part.elements // (ep * etp)
        case Sharding.REPLICATED:
            return part.elements


ALL_LINEAR = "all-linear"


def linear_parts(model: ModelSpec) -> list[Part]:
    """The linear layers of a model, that LoRA can adapt."""
    layers = [part for kind in set(model.layer_kinds) for part in layer_parts(model, kind)]
    return [part for part in [*layers, *mtp_parts(model)] if part.linear is not None]


_MODULES = ("mlp", "experts", "shared_experts")  # by which layers of one name are told apart


def names_of(part: Part) -> tuple[str, ...]:
    """What target_modules can call a linear layer: a module is meant whose name ends so (peft,
    tuners/tuners_utils.py: check_target_module_exists)."""
    *module, name = part.id.split(".")
    return (name, part.id) if module and module[0] in _MODULES else (name,)


def _is_adapted(part: Part, targets: tuple[str, ...]) -> bool:
    return ALL_LINEAR in targets or not set(names_of(part)).isdisjoint(targets)


def trains_experts(model: ModelSpec, workload: Workload) -> bool:
    """Whether routed experts, or their adapters, are trained."""
    experts = [part for part in linear_parts(model) if part.sharding is Sharding.EXPERT]
    if workload.tuner_type is TunerType.FULL:
        return bool(experts)
    return any(_is_adapted(part, workload.target_modules) for part in experts)


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
        parts.append(norm_part("final_layernorm", model.hidden_size))
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
    total = _count(_ends(model, layout.split, stage, workload.mtp_num_layers), *sizes)
    if stage == 0 and model.vision is not None:
        total += _frozen(model.vision.parameters)
    kinds: Counter[LayerKind] = Counter()
    for first, end in layout.split.chunks[stage]:
        kinds.update(model.layer_kinds[first:end])
    for kind, number in kinds.items():
        total += _count(layer_parts(model, kind), *sizes) * number
    return total


def linear_elements(model: ModelSpec, layout: Layout, workload: Workload, stage: int) -> int:
    """Elements of the weights of linear layers that any rank of a stage holds."""
    kinds = [
        kind for first, end in layout.split.chunks[stage] for kind in model.layer_kinds[first:end]
    ]
    counts = Counter(
        part for kind in kinds for part in layer_parts(model, kind) if part.linear is not None
    )
    if stage == layout.split.num_stages - 1:
        parts = [part for part in mtp_parts(model) if part.linear is not None]
        counts.update(parts * workload.mtp_num_layers)
    tp, ep, etp = layout.tp, layout.ep, layout.etp
    return sum(number * _on_rank(part, tp, ep, etp) for part, number in counts.items())


def _frozen(elements: int) -> RankParameters:
    """Parameters that are not trained, as those of a vision tower are by ms-swift's default
    (freeze_vit, freeze_aligner)."""
    return RankParameters(dense=elements, expert=0, trainable_dense=0, trainable_expert=0)


def model_parameters(model: ModelSpec, *, mtp_num_layers: int = 0) -> dict[str, int]:
    """Parameters of the whole model by part id; the sum is the model's size."""
    totals: dict[str, int] = {"embedding": embedding_part(model).elements}
    if not model.tie_word_embeddings:
        totals["output_layer"] = embedding_part(model).elements
    totals["final_layernorm"] = model.hidden_size
    if model.vision is not None:
        totals["vision"] = model.vision.parameters
    parts = [part for kind in model.layer_kinds for part in layer_parts(model, kind)]
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
