"""What the split of the layers over stages balances, of a problem."""

from typing import TYPE_CHECKING

from planner.communication import Communication
from planner.layer_view import GridSizes
from planner.layout import NO_RECOMPUTE
from planner.parts import layer_parts
from planner.split import SplitCosts

if TYPE_CHECKING:
    from planner.evaluate import Evaluator

# bf16 weights, fp32 gradients and, whole, Adam's three fp32 states.
_STATIC_BYTES = 2 + 4 + 12


def split_costs(evaluator: "Evaluator") -> SplitCosts:
    """Costs of layers without parallelism: only their ratios matter to the split."""
    model, workload = evaluator.problem.model, evaluator.problem.workload
    alone: GridSizes = (1, 1, 1, 1, 1)
    kinds = model.layer_kinds
    groups = evaluator.groups(alone)
    communication = Communication(evaluator.problem.cluster, groups, evaluator.overlap)
    views = evaluator.layers.layers(alone, 1, communication).views
    seconds = {kind: view.seconds.forward + view.seconds.backward for kind, view in views.items()}
    kept = {kind: view.activations(NO_RECOMPUTE, full=False).saved for kind, view in views.items()}
    static = {
        kind: _STATIC_BYTES * sum(part.elements for part in layer_parts(model, kind))
        for kind in views
    }
    head = evaluator.compute.head(workload.seq_length, 1)
    table = model.vocab_size * model.hidden_size * _STATIC_BYTES
    mtp, last = workload.mtp_num_layers, model.mtp_kind
    return SplitCosts(
        layer_seconds=tuple(seconds[kind] for kind in kinds),
        first_seconds=0.0,
        last_seconds=(1 + mtp) * (head.forward + head.backward) + mtp * seconds[last],
        layer_static_bytes=tuple(static[kind] for kind in kinds),
        layer_activation_bytes=tuple(kept[kind] for kind in kinds),
        first_bytes=table,
        last_bytes=table + mtp * static[last],
    )
