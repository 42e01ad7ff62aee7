"""The ways of converting the weights of a run, what each takes, and which is the fastest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from convert import resources
from convert.direction import Direction, has_single_process, is_lora, precision_needs
from convert.expected import expected_shapes
from convert.hf_folder import read_hf_folder
from convert.resources import SHARD_BYTES, Need, Term, amounts, power_of_two
from convert.sizes import (
    ASSUMED_WEIGHTS_FRACTION,
    BYTES_PER_PARAMETER,
    MOST_ROUNDING,
    ConversionSizes,
    conversion_sizes,
    trained_mtp_layers,
)
from planner.cluster import Assumption
from planner.errors import UsageError
from planner.model_spec import LayerKind, ModelSpec
from planner.parameters import model_parameters
from planner.parts import embedding_part, layer_parts
from planner.releases import version_of
from planner.run import Run
from planner.saving import ASSUMED_DISK_BYTES_PER_SECOND
from planner.units import GIB


class Kind(StrEnum):
    """How weights get from one format into the other."""

    MEGATRON = "megatron export"  # one process a GPU, each with a part of the model
    SWIFT = "swift export"  # one process with the whole model in host memory
    DIRECT = "no conversion"  # training reads and writes Hugging Face's format itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The terms of one kind in one direction."""

    gpu: tuple[Term, ...]
    host: tuple[Term, ...]
    seconds: tuple[Term, ...]


# megatron-core puts gate and up together by a function that ms-swift replaces up to 0.17 only.
MERGES_ANEW_SINCE = "0.18"

R = resources
RECIPES: dict[tuple[Kind, Direction], Recipe] = {
    (Kind.MEGATRON, Direction.TO_MCORE): Recipe(
        gpu=(R.WEIGHTS, R.CONTEXT, R.NCCL),
        host=(R.PROCESSES, R.STAGED),
        seconds=(R.START, R.READING, R.WRITING),
    ),
    (Kind.MEGATRON, Direction.TO_HF): Recipe(
        gpu=(R.WEIGHTS, R.GATHERED, R.CONTEXT, R.NCCL),
        host=(R.PROCESSES, R.UNWRITTEN),
        seconds=(R.START, R.READING, R.WRITING_ALONE),
    ),
    (Kind.SWIFT, Direction.TO_MCORE): Recipe(
        gpu=(R.HF_MODEL, R.IN_TRANSIT, R.CONTEXT),
        host=(R.PROCESSES, R.ON_HOST, R.COPIED),
        seconds=(R.START, R.READING, R.READING_AGAIN, R.WRITING_ALONE),
    ),
    (Kind.SWIFT, Direction.TO_HF): Recipe(
        gpu=(R.GATHERED, R.CONTEXT),
        host=(R.PROCESSES, R.ON_HOST, R.UNWRITTEN),
        seconds=(R.START, R.READING, R.WRITING_ALONE),
    ),
    # What training itself takes is the plan's; reading is what it does more than from mcore.
    (Kind.DIRECT, Direction.TO_MCORE): Recipe(gpu=(), host=(), seconds=(R.READING_ALL,)),
    (Kind.DIRECT, Direction.TO_HF): Recipe(gpu=(), host=(), seconds=(R.WRITING_ALONE,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of converting in one direction. Bytes a GPU and a node; seconds."""

    kind: Kind
    direction: Direction
    num_nodes: int
    gpus_per_node: int
    gpu_memory_bytes: dict[str, int]
    host_memory_bytes: dict[str, int]
    seconds: dict[str, float]
    disk_bytes: int
    obstacle: str  # why it cannot be taken; empty: it can
    note: str

    def to_json(self) -> dict[str, Any]:
        """The way as plain values."""
        return {
            "kind": self.kind.value,
            "direction": self.direction.value,
            "num_nodes": self.num_nodes,
            "gpus_per_node": self.gpus_per_node,
            "gpu_memory_bytes": {**self.gpu_memory_bytes, "total": self.gpu_total},
            "host_memory_bytes": {**self.host_memory_bytes, "total": self.host_total},
            "seconds": {**self.seconds, "total": sum(self.seconds.values())},
            "disk_bytes": self.disk_bytes,
            "obstacle": self.obstacle or None,
            "note": self.note,
        }

    @property
    def gpu_total(self) -> int:
        """Bytes of the fullest GPU."""
        return sum(self.gpu_memory_bytes.values())

    @property
    def host_total(self) -> int:
        """Bytes of the fullest node."""
        return sum(self.host_memory_bytes.values())

    @property
    def cost(self) -> tuple[float, int]:
        """Seconds, and among equals GPUs."""
        return sum(self.seconds.values()), self.num_nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """All ways, of which the first that can be taken is recommended, and what was assumed."""

    weights_bytes: int
    source_bytes: int
    tensors: int
    origin: str  # what the sizes were read from
    there: tuple[Way, ...]
    back: tuple[Way, ...]
    precision_bytes: int  # of the GPUs of the first node, to compare logits
    precision_needs: str  # besides, "" for nothing
    assumptions: tuple[Assumption, ...]

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "weights_bytes": self.weights_bytes,
            "source_bytes": self.source_bytes,
            "tensors": self.tensors,
            "origin": self.origin,
            "ways": [way.to_json() for way in (*self.there, *self.back)],
            "recommended": {
                direction.value: _choice(recommended(ways))
                for direction, ways in (
                    (Direction.TO_MCORE, self.there),
                    (Direction.TO_HF, self.back),
                )
            },
            "terms": {
                f"{kind.value} {direction.value}": {
                    term.id: {"formula": term.formula, "source": term.source}
                    for term in (*recipe.gpu, *recipe.host, *recipe.seconds)
                }
                for (kind, direction), recipe in RECIPES.items()
            },
            "precision_test": {
                "gpu_memory_bytes": self.precision_bytes,
                "needs": self.precision_needs,
            },
        }


def conversion_plan(run: Run) -> ConversionPlan:
    """What each way of converting the weights of a run takes."""
    sizes, weights = conversion_sizes(run), _weights(run)
    source, tensors, origin = _source(run, weights)
    need = _need(run, sizes, weights, source)
    ways = {
        direction: tuple(
            sorted(
                (_way(kind, direction, run, sizes, need) for kind in Kind),
                key=lambda way: (bool(way.obstacle), way.cost),
            )
        )
        for direction in Direction
    }
    return ConversionPlan(
        weights_bytes=weights,
        source_bytes=source,
        tensors=tensors,
        origin=origin,
        there=ways[Direction.TO_MCORE],
        back=ways[Direction.TO_HF],
        precision_bytes=weights,
        precision_needs=precision_needs(run),
        assumptions=tuple(_assumptions()),
    )


def way_of(run: Run, kind: Kind, direction: Direction) -> Way:
    """One way, with sizes from config.json alone: the same wherever it is asked for."""
    sizes, weights = conversion_sizes(run), _weights(run)
    return _way(kind, direction, run, sizes, _need(run, sizes, weights, weights))


def _weights(run: Run) -> int:
    """Bytes of the whole model in bfloat16."""
    parts = model_parameters(run.model, mtp_num_layers=trained_mtp_layers(run))
    return sum(parts.values()) * BYTES_PER_PARAMETER


def recommended(ways: tuple[Way, ...]) -> Way | None:
    """The fastest way that can be taken."""
    return next((way for way in ways if not way.obstacle), None)


def _choice(way: Way | None) -> dict[str, str] | None:
    """A way that is recommended, and why."""
    if way is None:
        return None
    reason = f"{sum(way.seconds.values()) / 60:.1f} minutes, the least of what is possible"
    if way.kind is Kind.DIRECT:
        reason += "; nothing to convert, and no second copy on disk"
    return {"kind": way.kind.value, "reason": reason}


def _source(run: Run, weights: int) -> tuple[int, int, str]:
    """Bytes and tensors of the model's files, and what says so."""
    path = Path(run.site.model_path)
    try:
        tensors = read_hf_folder(path).tensors
    except UsageError:
        tensors = {}
    if tensors:
        size = sum(tensor.size for tensor in tensors.values())
        return size, len(tensors), f"headers of {path}"
    shapes = expected_shapes(run.model, mtp=trained_mtp_layers(run) > 0) or {}
    return weights, len(shapes), f"config.json: the weights are not at {path}"


def _need(run: Run, sizes: ConversionSizes, weights: int, source: int) -> Need:
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


def _way(kind: Kind, direction: Direction, run: Run, sizes: ConversionSizes, need: Need) -> Way:
    recipe = RECIPES[kind, direction]
    num_nodes, gpus_per_node = sizes.num_nodes, sizes.gpus_per_node
    if kind is Kind.SWIFT:
        num_nodes = gpus_per_node = 1
    if kind is Kind.DIRECT:
        num_nodes, gpus_per_node = run.machines.num_nodes, run.machines.gpus_per_node
    need = replace(
        need,
        num_nodes=num_nodes,
        gpus_per_node=gpus_per_node,
        world_size=num_nodes * gpus_per_node,
    )
    way = Way(
        kind=kind,
        direction=direction,
        num_nodes=num_nodes,
        gpus_per_node=gpus_per_node,
        gpu_memory_bytes=amounts(recipe.gpu, need),
        host_memory_bytes=amounts(recipe.host, need),
        seconds={term.id: term.value(need) for term in recipe.seconds},
        disk_bytes=0 if kind is Kind.DIRECT and direction is Direction.TO_MCORE else need.weights,
        obstacle="",
        note=NOTES[kind, direction],
    )
    return replace(way, obstacle=_obstacle(way, run))


_ALONE = "CONVERTER=swift: one process, whatever the node is"
NOTES = {
    (Kind.MEGATRON, Direction.TO_MCORE): "once; every start then reads Megatron-Core's format",
    (Kind.MEGATRON, Direction.TO_HF): "once a checkpoint that is wanted",
    (Kind.SWIFT, Direction.TO_MCORE): _ALONE,
    (Kind.SWIFT, Direction.TO_HF): _ALONE,
    (Kind.DIRECT, Direction.TO_MCORE): "--load direct: at every start, and no second copy on disk",
    (Kind.DIRECT, Direction.TO_HF): "--load direct: with every checkpoint, and nothing to do after",
}


def _obstacle(way: Way, run: Run) -> str:
    """Why a way cannot be taken."""
    machines = run.machines
    if way.kind is Kind.SWIFT and not has_single_process(run, way.direction):
        return "it merges no adapters and knows no layers for multi-token prediction"
    merges = way.direction is Direction.TO_HF and is_lora(run)
    if way.kind is Kind.DIRECT and merges:
        return "training writes the adapter, not a merged model"
    if way.gpu_total > machines.gpu_memory_bytes:
        return f"a GPU has {machines.gpu_memory_bytes / GIB:.1f} GiB"
    if machines.host_memory_bytes and way.host_total > machines.host_memory_bytes:
        return f"a node has {machines.host_memory_bytes / GIB:.0f} GiB of host memory"
    return ""


def _assumptions() -> Iterator[Assumption]:
    yield Assumption(
        id="conversion.disk",
        value=ASSUMED_DISK_BYTES_PER_SECOND,
        unit="bytes/s",
        source="of a node's disk, reading or writing: yours may differ tenfold",
    )
    yield Assumption(
        id="conversion.gpu_fraction",
        value=ASSUMED_WEIGHTS_FRACTION,
        unit="of a GPU",
        source="what weights may take when nodes are chosen",
    )
