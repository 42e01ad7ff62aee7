"""Numbers of a topology that look like a known mistake, each with the likely right one.

A table of checks: some compare with numbers that vendors print (data/topology_traps.yaml), some
with other numbers of the same file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from planner.plan import Reason
from planner.topology_schema import TopologyFile
from planner.units import BITS_PER_BYTE
from planner.yaml_files import Sourced, StrictModel, load_yaml_model

TRAPS_FILE = Path(__file__).parent / "data" / "topology_traps.yaml"
FASTEST_NIC_GBITS = 800  # ConnectX-8: stas00/ml-engineering network/README.md @744d01e
_NEAR = 0.002  # relative; closer numbers are meant to be the same


class _Printed(StrictModel):
    value: float
    likely: float
    capability: str = ""


class _Trap(StrictModel):
    key: str
    source: str
    numbers: list[_Printed]


class _TrapsFile(StrictModel):
    sparse_flops: _Trap
    bidirectional_nvlink: _Trap
    label_memory: _Trap


@dataclass(frozen=True, slots=True)
class Warned:
    """A suspicious number: where it stands, what is likely right, and the sentence."""

    id: str
    key: str
    value: float
    likely: float
    reason: Reason


def warnings(file: TopologyFile) -> list[Warned]:
    """All suspicious numbers of a topology, in the order of the table."""
    return [
        Warned(name, key, value, likely, _reason(name, key, value, likely, **more))
        for name, find in CHECKS.items()
        for key, value, likely, more in find(file)
    ]


def _reason(name: str, key: str, value: float, likely: float, **more: float) -> Reason:
    numbers = {"value": value, "likely": likely, **more}
    shown = {name: f"{number:.6g}" for name, number in numbers.items()}
    return Reason(f"trap.{name}", {"key": key, **shown})


Found = Iterator[tuple[str, float, float, dict[str, float]]]  # key, value, likely one, more values


@cache
def _traps() -> _TrapsFile:
    return load_yaml_model(TRAPS_FILE, _TrapsFile)


def _printed(name: str) -> Callable[[TopologyFile], Found]:
    """A check of one number against those that vendors print."""

    def find(file: TopologyFile) -> Found:
        trap: _Trap = getattr(_traps(), name)
        found = _number(file, trap.key)
        for each in trap.numbers if found is not None else ():
            assert found is not None
            same = abs(found - each.value) <= _NEAR * each.value
            if same and each.capability in ("", file.gpu.compute_capability):
                yield trap.key, found, each.likely, {}

    return find


def _number(file: TopologyFile, key: str) -> float | None:
    """The number at a key with dots; None where a part of it is left out."""
    value: Any = file
    for part in key.split("."):
        value = getattr(value, part, None)
    return float(value.value) if isinstance(value, Sourced) else None


def _total_gbits(file: TopologyFile) -> Found:
    """The sum of all NICs where that of one stands."""
    for key, count, gbits in _nics(file):
        if gbits > FASTEST_NIC_GBITS:
            total = count if count > 1 else file.gpus_per_node
            yield key, gbits, gbits / total, {"nics": total}


def _front_end_nic(file: TopologyFile) -> Found:
    """One or two NICs more than share evenly among the GPUs."""
    gpus, nics = file.gpus_per_node, sum(group.count for group in file.network.groups)
    if gpus % nics and nics % gpus:
        for likely in (nics - 1, nics - 2):
            if likely > 1 and (gpus % likely == 0 or likely % gpus == 0):
                key = "nics_per_node" if file.network.nics is None else "nics"
                yield f"network.{key}", nics, likely, {"gpus": gpus}
                return


def _nic_over_pcie(file: TopologyFile) -> Found:
    """A NIC of one GPU that is faster than the GPU's PCIe."""
    lanes = file.gpu.pcie_gbytes_per_second.value * BITS_PER_BYTE
    for key, _, gbits in _nics(file):
        if lanes < gbits <= FASTEST_NIC_GBITS and len(list(_nics(file))) == 1:
            yield key, gbits, lanes, {"lanes": lanes}


def _nics(file: TopologyFile) -> Iterator[tuple[str, int, float]]:
    """Key, number and speed of each group of equal NICs."""
    listed = file.network.nics is not None
    for number, group in enumerate(file.network.groups):
        place = f"network.nics.{number}" if listed else "network"
        yield f"{place}.gbits_per_second_per_nic", group.count, group.gbits_per_second_per_nic.value


CHECKS: dict[str, Callable[[TopologyFile], Found]] = {
    "sparse_flops": _printed("sparse_flops"),
    "bidirectional_nvlink": _printed("bidirectional_nvlink"),
    "label_memory": _printed("label_memory"),
    "total_gbits": _total_gbits,
    "front_end_nic": _front_end_nic,
    "nic_over_pcie": _nic_over_pcie,
}
