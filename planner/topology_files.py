"""Reads a topology: a YAML file about one kind of host and its network, with sources."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import topologies
from planner.cluster import AS_PREDICTED, Assumption, Calibration, Cluster, Gpu
from planner.collectives import Collective, assumed_family, efficiency
from planner.errors import UsageError
from planner.topology_schema import CalibrationFile, GpuFile, Refusal, TopologyFile, merged, refusal
from planner.units import BITS_PER_BYTE, GIB, GIGA, MIB, MICRO, TERA
from planner.yaml_files import (
    Sourced,
    StrictModel,
    checked,
    known_names,
    load_yaml,
    load_yaml_model,
    looks_like_path,
    named_file,
    nearest,
    shortened,
)

TOPOLOGIES_FOLDER = Path(topologies.__file__).parent
NAMES_FILE = Path(__file__).parent / "data" / "topology_names.yaml"
DEFAULT_TOPOLOGY = "h100-8x-ib"
_LONGEST_CHAIN = 4  # of files that are each `like` the next

# key of a number in the file: what its unit is worth in base units, and the base unit
_UNITS: dict[str, tuple[float, str]] = {
    "memory_usable_mib": (MIB, "bytes"),
    "memory_smi_mib": (MIB, "bytes"),
    "host_memory_gib": (GIB, "bytes"),
    "bf16_teraflops_per_second": (TERA, "FLOP/s"),
    "hbm_gbytes_per_second": (GIGA, "bytes/s"),
    "pcie_gbytes_per_second": (GIGA, "bytes/s"),
    "gbytes_per_second": (GIGA, "bytes/s"),
    "gbits_per_second_per_nic": (GIGA, "bits/s"),
    "latency_microseconds": (MICRO, "seconds"),
    "oversubscription": (1, "times"),
    "cpus_per_node": (1, "CPUs"),
    **dict.fromkeys(CalibrationFile.model_fields, (1, "of the predicted time")),
}
_NOT_PLANNED_WITH = ("memory_smi_mib",)


class _NamesFile(StrictModel):
    aliases: dict[str, str]
    refused: list[Refusal]


def known_topologies() -> list[str]:
    """The names of the topologies that come with the planner."""
    return known_names(TOPOLOGIES_FOLDER)


@lru_cache
def _names() -> _NamesFile:
    return load_yaml_model(NAMES_FILE, _NamesFile)


def aliases() -> dict[str, str]:
    """Other names of topologies, in lower case, and the topologies that they mean."""
    return _names().aliases


def host_gpus(name_or_path: str) -> int:
    """The GPUs of a host of a topology. Raises UsageError: those of `load_topology`."""
    return read_topology(topology_path(name_or_path)).gpus_per_node


def load_topology(name_or_path: str, num_nodes: int, gpus_per_node: int | None = None) -> Cluster:
    """A cluster of `num_nodes` hosts of a topology, given by its name or the path of a YAML file.

    `gpus_per_node` is what the job uses of a host; None: all. Raises UsageError: topology.unknown,
    topology.refused, topology.fewer_gpus, and those of `planner.yaml_files.load_yaml_model`.
    """
    path = topology_path(name_or_path)
    file = read_topology(path)
    used = gpus_per_node or file.gpus_per_node
    if used > file.gpus_per_node:
        total, has = num_nodes * used, file.gpus_per_node
        nearest = next(
            n for n in range(num_nodes, total + 1) if total % n == 0 and total // n <= has
        )
        raise UsageError(
            "topology.fewer_gpus", name=path.stem, gpus=has, wanted=used, nearest=nearest
        )
    return as_cluster(path.stem, file, num_nodes, used)


def topology_path(name_or_path: str) -> Path:
    """The file of a topology. Raises UsageError: topology.unknown, topology.refused."""
    path = named_file(name_or_path, TOPOLOGIES_FOLDER)
    if path is not None:
        return path
    meant = aliases().get(name_or_path.casefold())
    if meant is not None:
        return TOPOLOGIES_FOLDER / f"{meant}.yaml"
    reason = refusal(name_or_path, _names().refused)
    if reason is not None:
        raise UsageError("topology.refused", name=shortened(name_or_path), reason=reason)
    raise UsageError("topology.unknown", name=name_or_path, suggestion=_hint(name_or_path))


def _hint(name: str) -> str:
    """The name that looks most like `name`, or where all names stand: they are too many to tell."""
    near = nearest(name, known_topologies()) or nearest(name, aliases())
    return f"the nearest is {near}" if near else "plan topology list shows all"


def read_topology(path: Path) -> TopologyFile:
    """A checked file, with all that it is `like`. Raises UsageError: file.*."""
    return checked(path, _whole(path, _LONGEST_CHAIN), TopologyFile)


def _whole(path: Path, chain: int) -> Any:
    """What a file holds, over what the topology holds that it is `like`."""
    content = load_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("like"), str):
        return content
    name = content["like"]
    is_path = looks_like_path(name)
    base = path.parent / name if is_path else TOPOLOGIES_FOLDER / f"{name}.yaml"
    if not (is_path or name in known_topologies()) or not chain:
        hint = _hint(name) if chain else "the chain of likes is too long"
        reason = f"must name a topology that comes with the planner, or a YAML file; {hint}"
        raise UsageError(
            "file.bad_value", path=path, key="like", reason=reason, value=shortened(name)
        )
    over = {key: value for key, value in content.items() if key != "like"}
    return merged(_whole(base, chain - 1), over)


def as_cluster(name: str, file: TopologyFile, num_nodes: int, gpus_per_node: int) -> Cluster:
    """The cluster of so many hosts of a checked file."""
    nvlink, pcie, network = file.nvlink, file.pcie, file.network
    nics = [
        _base(group, "gbits_per_second_per_nic") / BITS_PER_BYTE
        for group in network.groups
        for _ in range(group.count)
    ]
    subscribed = network.oversubscription
    return Cluster(
        name=name,
        description=file.description,
        num_nodes=num_nodes,
        gpus_per_node=gpus_per_node,
        host_gpus=file.gpus_per_node,
        gpu=_gpu(file.gpu),
        host_nvlink_domain_size=file.nvlink_domain_size,
        nvlink_bandwidth_bytes_per_second=_base(nvlink, "gbytes_per_second") if nvlink else None,
        nvlink_latency_seconds=_base(nvlink, "latency_microseconds") if nvlink else None,
        nvlink_efficiency=nvlink.efficiency if nvlink else None,
        pcie_bandwidth_bytes_per_second=_base(pcie, "gbytes_per_second") if pcie else None,
        pcie_latency_seconds=_base(pcie, "latency_microseconds") if pcie else None,
        pcie_efficiency=pcie.efficiency if pcie else None,
        network_kind=network.kind,
        host_nic_bandwidths_bytes_per_second=tuple(nics),
        network_latency_seconds=_base(network, "latency_microseconds"),
        network_efficiency=network.efficiency,
        nodes_per_leaf=network.nodes_per_leaf,
        oversubscription=subscribed.value if subscribed else 1.0,
        host_memory_bytes=int(_base(file, "host_memory_gib")),
        cpus_per_node=file.cpus_per_node.value,
        assumptions=(*_assumptions("cluster", file), *_assumed_efficiencies(file)),
        calibration=_calibration(file.calibration),
    )


def _calibration(file: CalibrationFile | None) -> Calibration:
    if file is None:
        return AS_PREDICTED
    return Calibration(**{name: factor.value for name, factor in file if factor is not None})


def _gpu(file: GpuFile) -> Gpu:
    major, minor = file.compute_capability.split(".")
    return Gpu(
        name=file.name,
        memory_usable_bytes=int(_base(file, "memory_usable_mib")),
        bf16_flops_per_second=_base(file, "bf16_teraflops_per_second"),
        hbm_bandwidth_bytes_per_second=_base(file, "hbm_gbytes_per_second"),
        pcie_bandwidth_bytes_per_second=_base(file, "pcie_gbytes_per_second"),
        compute_capability=(int(major), int(minor)),
    )


def _base(model: StrictModel, key: str) -> float:
    """A number of a file in base units."""
    value: float = getattr(model, key).value
    return value * _UNITS[key][0]


def _assumptions(prefix: str, model: StrictModel) -> Iterator[Assumption]:
    """The numbers of a file that are marked as assumed, in base units."""
    for key, item in model:
        if isinstance(item, Sourced):
            if item.assumed and key not in _NOT_PLANNED_WITH:
                value, unit = _base(model, key), _UNITS[key][1]
                yield Assumption(id=f"{prefix}.{key}", value=value, unit=unit, source=item.source)
        elif isinstance(item, StrictModel):
            yield from _assumptions(f"{prefix}.{key}", item)
        elif isinstance(item, list):
            for number, each in enumerate(item):
                if isinstance(each, StrictModel):
                    yield from _assumptions(f"{prefix}.{key}.{number}", each)


def _assumed_efficiencies(file: TopologyFile) -> Iterator[Assumption]:
    """The fractions of the links that no measurement stands behind."""
    links = {"nvlink": file.nvlink, "pcie": file.pcie, "network": file.network}
    collective: Collective = "all_gather"
    for key, link in links.items():
        source = assumed_family(link.efficiency) if link else None
        if link and source is not None:
            yield Assumption(
                id=f"cluster.{key}.efficiency",
                value=efficiency(link.efficiency, collective, 2).fraction,
                unit="of the bandwidth",
                source=source,
            )
