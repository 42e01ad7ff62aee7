"""The ways of converting the weights of a run, what each takes, and which is the fastest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from convert import resources
from convert.direction import Direction, has_single_process, is_lora, precision_needs
from convert.expected import expected_shapes
from convert.hf_folder import read_hf_folder
from convert.need import need_of
from convert.resources import Need, Term, amounts
from convert.sizes import (
    ASSUMED_WEIGHTS_FRACTION,
    BYTES_PER_PARAMETER,
    ConversionSizes,
    conversion_sizes,
    trained_mtp_layers,
)
from planner.cluster import Assumption
from planner.errors import UsageError
from planner.parameters import model_parameters
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


R = resources
RECIPES: dict[tuple[Kind, Direction], Recipe] = {
    (Kind.MEGATRON, Direction.TO_MCORE): Recipe(
        gpu=(R.WEIGHTS, R.CONTEXT),
        host=(R.PROCESSES, R.STAGED),
        seconds=(R.START, R.READING, R.WRITING),
    ),
    (Kind.MEGATRON, Direction.TO_HF): Recipe(
        gpu=(R.WEIGHTS, R.GATHERED, R.ADAPTER_PRODUCT, R.CONTEXT),
        host=(R.PROCESSES, R.UNWRITTEN),
        seconds=(R.START, R.READING, R.WRITING_ALONE),
    ),
    (Kind.SWIFT, Direction.TO_MCORE): Recipe(
        gpu=(R.HF_MODEL, R.IN_TRANSIT, R.CONTEXT),
        host=(R.PROCESSES, R.ON_HOST, R.COPIED),
        seconds=(R.START, R.READING, R.READING_AGAIN, R.WRITING_ALONE),
    ),
    (Kind.SWIFT, Direction.TO_HF): Recipe(
        gpu=(R.GATHERED_ALONE, R.CONTEXT),
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
class Precision:
    """What comparing logits takes beside the conversion."""

    gpu_bytes: int  # on the GPUs of the first node together
    host_bytes: int  # and then on its host
    needs: str  # besides, "" for nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """All ways, of which the first that can be taken is recommended, and what was assumed."""

    weights_bytes: int
    source_bytes: int
    tensors: int
    origin: str  # what the sizes were read from
    there: tuple[Way, ...]
    back: tuple[Way, ...]
    precision: Precision
    smoke_gpu_bytes: int  # on the GPUs of one node, to answer
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
                "gpu_memory_bytes": self.precision.gpu_bytes,
                "host_memory_bytes": self.precision.host_bytes,
                "needs": self.precision.needs,
            },
            "smoke": {"gpu_memory_bytes": self.smoke_gpu_bytes},
        }


def conversion_plan(run: Run) -> ConversionPlan:
    """What each way of converting the weights of a run takes."""
    sizes, weights = conversion_sizes(run), _weights(run)
    source, tensors, origin = _source(run, weights)
    need = need_of(run, sizes, weights, source)
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
        precision=_precision(run, need),
        smoke_gpu_bytes=sum(amounts(R.SMOKE_GPU, need).values()),
        assumptions=tuple(_assumptions()),
    )


def way_of(run: Run, kind: Kind, direction: Direction) -> Way:
    """One way, with sizes from config.json alone: the same wherever it is asked for."""
    sizes, weights = conversion_sizes(run), _weights(run)
    return _way(kind, direction, run, sizes, need_of(run, sizes, weights, weights))


def precision_of(run: Run) -> Precision:
    """What comparing logits takes, with sizes from config.json alone."""
    sizes, weights = conversion_sizes(run), _weights(run)
    return _precision(run, need_of(run, sizes, weights, weights))


def _precision(run: Run, need: Need) -> Precision:
    return Precision(
        gpu_bytes=sum(amounts(R.PRECISION_GPU, need).values()),
        host_bytes=sum(amounts(R.PRECISION_HOST, need).values()),
        needs=precision_needs(run),
    )


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
    why = f"the weights are not at {path}"
    try:
        folder = read_hf_folder(path)
    except UsageError:
        pass
    else:
        tensors = folder.tensors.values()
        if tensors and not folder.findings:
            return sum(tensor.size for tensor in tensors), len(tensors), f"headers of {path}"
        why = f"the files at {path} are not whole, see moe-convert verify"
    shapes = expected_shapes(run.model, mtp=trained_mtp_layers(run) > 0) or {}
    return weights, len(shapes), f"config.json: {why}"


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
    yield Assumption(
        id="conversion.nccl",
        value=0.0,
        unit="GiB",
        source="two ranks over sockets had none beside their CUDA context; over NVLink: not"
        " measured",
    )
