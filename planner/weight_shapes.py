"""Shapes of the weights of a rank: Transformer Engine keeps one dummy gradient of each."""

from functools import cache

from planner.layout import Layout
from planner.model_spec import LayerKind, ModelSpec
from planner.parts import LinearKind, Part, Sharding, layer_parts, mtp_parts
from planner.workload import Workload

Shape = tuple[int, int]


def distinct_weight_elements(
    model: ModelSpec, layout: Layout, workload: Workload, stage: int
) -> int:
    """Elements of one weight of each shape that a rank of a stage trains by matrix products.

    Source: Transformer Engine 2.12.0, pytorch/module/base.py:81 (get_dummy_wgrad), asked for by
    linear.py:954, layernorm_linear.py:999 and grouped_linear.py:493; megatron-core 0.18.1,
    tensor_parallel/layers.py:617 for the output layer.
    """
    kinds = {
        kind for first, end in layout.split.chunks[stage] for kind in model.layer_kinds[first:end]
    }
    shapes: set[Shape] = set()
    for kind in kinds:
        shapes |= _layer_shapes(model, kind, layout.tp, layout.etp)
    if stage == layout.pp - 1:
        shapes.add((-(-model.vocab_size // layout.tp), model.hidden_size))
        if workload.mtp_num_layers:
            shapes |= _shapes(tuple(mtp_parts(model)), layout.tp, layout.etp)
    return sum(rows * columns for rows, columns in shapes)


@cache
def _layer_shapes(model: ModelSpec, kind: LayerKind, tp: int, etp: int) -> frozenset[Shape]:
    return _shapes(tuple(layer_parts(model, kind)), tp, etp)


def _shapes(parts: tuple[Part, ...], tp: int, etp: int) -> frozenset[Shape]:
    return frozenset(_on_rank(part, tp, etp) for part in parts if part.linear is not None)


def _on_rank(part: Part, tp: int, etp: int) -> Shape:
    assert part.linear is not None
    columns, rows, kind = part.linear
    shards = etp if part.sharding is Sharding.EXPERT else tp
    if kind is LinearKind.COLUMN:
        rows //= shards
    elif kind is LinearKind.ROW:
        columns //= shards
    return rows, columns
