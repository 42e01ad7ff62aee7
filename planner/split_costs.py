"""What the split of the layers over stages balances: of a layout, or of what is typical."""

from math import gcd
from typing import TYPE_CHECKING

from planner.communication import Communication
from planner.grids import Grids
from planner.layer_shape import BF16
from planner.layer_view import GridSizes
from planner.layout import NO_RECOMPUTE, Layout, Recompute
from planner.parts import Part, Sharding, embedding_part, layer_parts, mtp_parts
from planner.split import SplitCosts
from planner.workload import TunerType

if TYPE_CHECKING:
    from planner.evaluate import Evaluator


def typical_costs(evaluator: "Evaluator") -> SplitCosts:
    """Costs from which a search starts, the same for all grids: those of layers whose experts are
    divided over a host, and that are not divided otherwise.

    Undivided, experts that get few tokens each would take far longer beside a dense layer than they
    do on any rank that fits.
    """
    problem = evaluator.problem
    moe, per_node = problem.model.moe, problem.cluster.gpus_per_node
    ep = 1 if moe is None else gcd(moe.num_experts, per_node)
    return _costs(evaluator, (1, 1, 1, ep, 1), 1, NO_RECOMPUTE)


def layout_costs(evaluator: "Evaluator", layout: Layout) -> SplitCosts:
    """Costs of a layout: its layers, micro-batch and recomputation.

    With block recomputation as if all of its layers were recomputed; what the heads' host is ahead
    for is left out. Both depend on the split.
    """
    sizes = (layout.tp, layout.cp, layout.pp, layout.ep, layout.etp)
    micro_batch_size, recompute = layout.micro_batch_size, layout.recompute
    return _costs(evaluator, sizes, micro_batch_size, recompute, layout.dispatcher)


def _costs(
    evaluator: "Evaluator",
    sizes: GridSizes,
    micro_batch_size: int,
    recompute: Recompute,
    dispatcher: str = "alltoall",
) -> SplitCosts:
    problem, full = evaluator.problem, recompute.granularity == "full"
    model, mtp = problem.model, problem.workload.mtp_num_layers
    communication = Communication(
        problem.cluster, evaluator.groups(sizes), evaluator.overlap, dispatcher
    )
    layers = evaluator.layers.layers(sizes, micro_batch_size, communication)
    seconds, kept, static = {}, {}, {}
    for kind, view in layers.views.items():
        seconds[kind] = sum(view.microbatch_seconds(recompute, full=full))
        kept[kind] = view.activations(recompute, full=full).saved
        static[kind] = _static_bytes(evaluator, sizes, layer_parts(model, kind))
    embedding, heads = evaluator.ends(layers.any.shape.tokens, sizes[0])
    table = _static_bytes(evaluator, sizes, (embedding_part(model),))
    kinds, last = model.layer_kinds, model.mtp_kind
    return SplitCosts(
        layer_seconds=tuple(seconds[kind] for kind in kinds),
        first_seconds=embedding.forward + embedding.backward,
        last_seconds=heads.forward + heads.backward + (mtp * seconds[last] if mtp else 0.0),
        layer_static_bytes=tuple(static[kind] for kind in kinds),
        layer_activation_bytes=tuple(kept[kind] for kind in kinds),
        first_bytes=table,
        last_bytes=table + mtp * _static_bytes(evaluator, sizes, mtp_parts(model)),
    )


def _static_bytes(evaluator: "Evaluator", sizes: GridSizes, parts: tuple[Part, ...]) -> float:
    """Weights of some parts on a rank, their gradients and its share of their optimizer states; of
    LoRA the weights."""
    problem, states = evaluator.problem, evaluator.states
    tp, cp, pp, ep, etp = sizes
    grids = Grids(world_size=problem.cluster.num_gpus, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)
    divided = {Sharding.TENSOR: tp, Sharding.REPLICATED: 1, Sharding.EXPERT: ep * etp}
    total = 0.0
    for part in parts:
        each = float(BF16)
        if problem.workload.tuner_type is TunerType.FULL:
            shards = grids.edp if part.sharding is Sharding.EXPERT else grids.dp * cp
            each += states.gradient + (states.master + states.moments) / shards
        total += each * part.elements / divided[part.sharding]
    return total
