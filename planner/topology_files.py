"""Reads a topology: a YAML file about one kind of host and its network, with sources."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

import topologies
from planner.cluster import Assumption, Cluster, Gpu
from planner.collectives import assumed_family, efficiency
from planner.errors import UsageError
from planner.units import BITS_PER_BYTE, GIB, GIGA, MIB, MICRO, TERA
from planner.yaml_files import (
    Sourced,
    StrictModel,
    known_names,
    load_yaml_model,
    named_file,
    suggestion,
)

TOPOLOGIES_FOLDER = Path(topologies.__file__).parent
GPUS_FILE = Path(__file__).parent / "data" / "gpus.yaml"
DEFAULT_TOPOLOGY = "h100-8x-ib"

Positive = Annotated[float, Field(gt=0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=4096)]
Efficiency = Literal["nvlink-hopper", "nvlink-ampere", "infiniband", "roce", "erdma"]


class _GpuFile(StrictModel):
    name: str = ""
    memory_usable_mib: Sourced[Positive]
    bf16_teraflops_per_second: Sourced[Positive]
    hbm_gbytes_per_second: Sourced[Positive]
    pcie_gbytes_per_second: Sourced[Positive]
    compute_capability: Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]


class _GpusFile(StrictModel):
    gpus: dict[str, _GpuFile]


@lru_cache
def _known_gpus() -> dict[str, _GpuFile]:
    return load_yaml_model(GPUS_FILE, _GpusFile).gpus


def _gpu_by_name(value: object) -> object:
    """A GPU of the catalogue where a file gives only a name."""
    if not isinstance(value, str):
        return value
    gpus = _known_gpus()
    if value not in gpus:
        hint = suggestion(value, gpus)
        raise PydanticCustomError("unknown_gpu", "no such GPU; {hint}", {"hint": hint})
    return gpus[value].model_copy(update={"name": value})


class _NvlinkFile(StrictModel):
    domain_size: Count
    gbytes_per_second: Sourced[Positive]
    latency_microseconds: Sourced[Positive]
    efficiency: Efficiency


class _NetworkFile(StrictModel):
    kind: Literal["InfiniBand", "RoCE", "eRDMA", "Ethernet"]
    nics_per_node: Count
    gbits_per_second_per_nic: Sourced[Positive]
    latency_microseconds: Sourced[Positive]
    efficiency: Efficiency


class _TopologyFile(StrictModel):
    description: str
    gpu: Annotated[_GpuFile, BeforeValidator(_gpu_by_name)]
    gpus_per_node: Count
    host_memory_gib: Sourced[Positive]
    cpus_per_node: Sourced[Count]
    nvlink: _NvlinkFile
    network: _NetworkFile

    @model_validator(mode="after")
    def _even_shares(self) -> "_TopologyFile":
        gpus, nics = self.gpus_per_node, self.network.nics_per_node
        if gpus % nics and nics % gpus:
            reason = "nics_per_node and gpus_per_node must divide one another"
            raise PydanticCustomError("uneven", reason)
        if gpus % self.nvlink.domain_size:
            reason = "nvlink.domain_size must divide gpus_per_node"
            raise PydanticCustomError("uneven", reason)
        return self


# key of a number in the file: what its unit is worth in base units, and the base unit
_UNITS: dict[str, tuple[float, str]] = {
    "memory_usable_mib": (MIB, "bytes"),
    "host_memory_gib": (GIB, "bytes"),
    "bf16_teraflops_per_second": (TERA, "FLOP/s"),
    "hbm_gbytes_per_second": (GIGA, "bytes/s"),
    "pcie_gbytes_per_second": (GIGA, "bytes/s"),
    "gbytes_per_second": (GIGA, "bytes/s"),
    "gbits_per_second_per_nic": (GIGA / BITS_PER_BYTE, "bytes/s"),
    "latency_microseconds": (MICRO, "seconds"),
    "cpus_per_node": (1, "CPUs"),
}


def known_topologies() -> list[str]:
    """The names of the topologies that come with the planner."""
    return known_names(TOPOLOGIES_FOLDER)


def host_gpus(name_or_path: str) -> int:
    """The GPUs of a host of a topology. Raises UsageError: those of `load_topology`."""
    return load_yaml_model(_path(name_or_path), _TopologyFile).gpus_per_node


def load_topology(name_or_path: str, num_nodes: int, gpus_per_node: int | None = None) -> Cluster:
    """A cluster of `num_nodes` hosts of a topology, given by its name or the path of a YAML file.

    `gpus_per_node` is what the job uses of a host; None: all. Raises UsageError: topology.unknown,
    topology.fewer_gpus, and those of `planner.yaml_files.load_yaml_model`.
    """
    path = _path(name_or_path)
    file = load_yaml_model(path, _TopologyFile)
    used = gpus_per_node or file.gpus_per_node
    if used > file.gpus_per_node:
        total, has = num_nodes * used, file.gpus_per_node
        nearest = next(
            n for n in range(num_nodes, total + 1) if total % n == 0 and total // n <= has
        )
        raise UsageError(
            "topology.fewer_gpus", name=path.stem, gpus=has, wanted=used, nearest=nearest
        )
    return _cluster(path.stem, file, num_nodes, used)


def _path(name_or_path: str) -> Path:
    path = named_file(name_or_path, TOPOLOGIES_FOLDER)
    if path is None:
        hint = suggestion(name_or_path, known_topologies())
        raise UsageError("topology.unknown", name=name_or_path, suggestion=hint)
    return path


def _cluster(name: str, file: _TopologyFile, num_nodes: int, gpus_per_node: int) -> Cluster:
    """The cluster of a checked file; of its NICs only those that the used GPUs have."""
    gpu, nvlink, network = file.gpu, file.nvlink, file.network
    major, minor = gpu.compute_capability.split(".")
    return Cluster(
        name=name,
        description=file.description,
        num_nodes=num_nodes,
        gpus_per_node=gpus_per_node,
        gpu=Gpu(
            name=gpu.name,
            memory_usable_bytes=int(_base(gpu, "memory_usable_mib")),
            bf16_flops_per_second=_base(gpu, "bf16_teraflops_per_second"),
            hbm_bandwidth_bytes_per_second=_base(gpu, "hbm_gbytes_per_second"),
            pcie_bandwidth_bytes_per_second=_base(gpu, "pcie_gbytes_per_second"),
            compute_capability=(int(major), int(minor)),
        ),
        nvlink_domain_size=min(nvlink.domain_size, gpus_per_node),
        nvlink_bandwidth_bytes_per_second=_base(nvlink, "gbytes_per_second"),
        nvlink_latency_seconds=_base(nvlink, "latency_microseconds"),
        nvlink_efficiency=nvlink.efficiency,
        network_kind=network.kind,
        nics_per_node=-(-network.nics_per_node * gpus_per_node // file.gpus_per_node),
        nic_bandwidth_bytes_per_second=_base(network, "gbits_per_second_per_nic"),
        network_latency_seconds=_base(network, "latency_microseconds"),
        network_efficiency=network.efficiency,
        host_memory_bytes=int(_base(file, "host_memory_gib")),
        cpus_per_node=file.cpus_per_node.value,
        assumptions=(*_assumptions("cluster", file), *_assumed_efficiencies(file)),
    )


def _base(model: StrictModel, key: str) -> float:
    """A number of a file in base units."""
    value: float = getattr(model, key).value
    return value * _UNITS[key][0]


def _assumptions(prefix: str, model: StrictModel) -> Iterator[Assumption]:
    """The numbers of a file that are marked as assumed, in base units."""
    for key, item in model:
        if isinstance(item, Sourced):
            if item.assumed:
                value, unit = _base(model, key), _UNITS[key][1]
                yield Assumption(id=f"{prefix}.{key}", value=value, unit=unit, source=item.source)
        elif isinstance(item, StrictModel):
            yield from _assumptions(f"{prefix}.{key}", item)


def _assumed_efficiencies(file: _TopologyFile) -> Iterator[Assumption]:
    """The fractions of the links that no measurement stands behind."""
    for key, family in (("nvlink", file.nvlink.efficiency), ("network", file.network.efficiency)):
        source = assumed_family(family)
        if source is not None:
            fraction = efficiency(family, "all_gather", 2).fraction
            yield Assumption(
                id=f"cluster.{key}.efficiency",
                value=fraction,
                unit="of the bandwidth",
                source=source,
            )
