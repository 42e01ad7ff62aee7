"""The sizes that the terms of a conversion are made of, read off a run."""

from dataclasses import dataclass
from functools import cache
from math import prod

from convert.direction import is_lora
from convert.expected import expected_shapes
from convert.resources import SHARD_BYTES, Need, power_of_two
from convert.sizes import (
    BYTES_PER_PARAMETER,
    MOST_ROUNDING,
    ConversionSizes,
    trained_mtp_layers,
)
from planner.model_spec import LayerKind, ModelSpec
from planner.parts import embedding_part, layer_parts
from planner.releases import version_of
from planner.run import Run

# megatron-core puts gate and up together by a function that ms-swift replaces up to 0.17 only.
MERGES_ANEW_SINCE = "0.18"


def need_of(run: Run, sizes: ConversionSizes, weights: int, source: int) -> Need:
    """The sizes of a run's conversion; of its weights in bfloat16 and of the files of its model."""
    layers = [_layer(run.model, kind) for kind in run.model.layer_kinds]
    stages = range(sizes.split.num_stages)
    in_stage = [[i - 1 for chunk in sizes.split.layer_ids(s) for i in chunk] for s in stages]
    return Need(
        weights=weights,
        source=source,
        stage=sizes.stage_bytes,
        experts=max(layer.fc1 + layer.fc2 for layer in layers),
        experts_fc1=max(layer.fc1 for layer in layers),
        stage_fc1=max(sum(layers[i].fc1 for i in stage) for stage in in_stage),
        model_fc1=sum(layer.fc1 for layer in layers),
        merges_adapters=is_lora(run),
        largest_layer=max(layer.all for layer in layers),
        table=embedding_part(run.model).elements * BYTES_PER_PARAMETER,
        merges_anew=version_of(run.stack.megatron_core) >= version_of(MERGES_ANEW_SINCE),
        saving_peak=_saving_peak(embedding_part(run.model).elements, layers),
        staging_factor=_staging_factor(run.model, mtp=trained_mtp_layers(run) > 0),
        world_size=sizes.world_size,
        num_nodes=sizes.num_nodes,
        gpus_per_node=sizes.gpus_per_node,
    )


@cache
def _staging_factor(model: ModelSpec, *, mtp: bool) -> float:
    """Pinned memory for all tensors of a model, over what they hold."""
    shapes = expected_shapes(model, mtp=mtp)
    if shapes is None:
        return MOST_ROUNDING
    sizes = [BYTES_PER_PARAMETER * prod(shape) for shape in shapes.values()]
    return sum(map(power_of_two, sizes)) / sum(sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Bytes of a decoder layer: all of it, and its routed experts' two matrices."""

    all: int
    fc1: int
    fc2: int


def _layer(model: ModelSpec, kind: LayerKind) -> _Layer:
    parts = {part.id: BYTES_PER_PARAMETER * part.elements for part in layer_parts(model, kind)}
    return _Layer(
        all=sum(parts.values()),
        fc1=parts.get("experts.linear_fc1", 0),
        fc2=parts.get("experts.linear_fc2", 0),
    )


def _saving_peak(embedding: int, layers: list[_Layer]) -> int:
    """The most that the writing rank holds: tensors that wait for their file to be full, and of the
    next layer its experts' first matrices twice, or all of it.

    Source: mcore-bridge 1.6.5, mcore_bridge/utils/safetensors.py:124-133 (a file is written when
    the next tensor would pass 5 GB) and gpt_bridge.py:1203-1206 (copied expert by expert).
    """
    waiting = embedding * BYTES_PER_PARAMETER
    peak = waiting
    for layer in layers:
        peak = max(peak, waiting + max(2 * layer.fc1, layer.all))
        waiting = (waiting + layer.all) % SHARD_BYTES
    return peak
