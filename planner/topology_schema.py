"""The form of topology files: a kind of host, its links and its network, each number sourced."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from planner.yaml_files import Sourced, StrictModel, load_yaml_model, suggestion

GPUS_FILE = Path(__file__).parent / "data" / "gpus.yaml"

Positive = Annotated[float, Field(ge=0.001, le=1e9)]  # less would be 0 bytes or seconds
Count = Annotated[int, Field(ge=1, le=4096)]
NvlinkFamily = Literal["nvlink-blackwell", "nvlink-hopper", "nvlink-ampere"]
PcieFamily = Literal["pcie", "pcie-no-p2p"]
NetworkFamily = Literal["infiniband", "roce", "efa", "erdma", "tcpxo", "tcpx", "tcp"]


class GpuFile(StrictModel):
    """A GPU: an entry of data/gpus.yaml, or written out in a topology."""

    name: str = ""
    printed_as: list[str] = Field(default_factory=list)
    pci_device_ids: list[str] = Field(default_factory=list)
    memory_smi_mib: Sourced[Positive] | None = None
    memory_usable_mib: Sourced[Positive]
    bf16_teraflops_per_second: Sourced[Positive]
    hbm_gbytes_per_second: Sourced[Positive]
    pcie_gbytes_per_second: Sourced[Positive]
    compute_capability: Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]


class Refusal(StrictModel):
    """Names, by what they hold, of what cannot be planned for, and why."""

    names: list[str]
    reason: str


class _GpusFile(StrictModel):
    sources: list[str]  # anchors of the file itself
    gpus: dict[str, GpuFile]
    refused: list[Refusal]


@lru_cache
def _gpus_file() -> _GpusFile:
    return load_yaml_model(GPUS_FILE, _GpusFile)


def known_gpus() -> dict[str, GpuFile]:
    """The GPUs of the catalogue, by name."""
    return _gpus_file().gpus


def refusal(name: str, refused: list[Refusal]) -> str | None:
    """Why what has this name cannot be planned for; None: nothing is known against it."""
    folded = name.casefold()
    return next((each.reason for each in refused if any(n in folded for n in each.names)), None)


def _gpu_by_name(value: object) -> object:
    """A GPU of the catalogue where a file gives only a name."""
    if not isinstance(value, str):
        return value
    by_name = {name.casefold(): name for name in known_gpus()}
    name = by_name.get(value.casefold())
    if name is None:
        reason = refusal(value, _gpus_file().refused)
        hint = f"no such GPU; {suggestion(value, known_gpus())}"
        if reason is not None:
            hint = f"cannot be planned for: {reason}"
        raise PydanticCustomError("unknown_gpu", "{hint}", {"hint": hint})
    return known_gpus()[name].model_copy(update={"name": name})


class NvlinkFile(StrictModel):
    """NVLink between GPUs of one host, or of several."""

    domain_size: Count
    gbytes_per_second: Sourced[Positive]
    latency_microseconds: Sourced[Positive]
    efficiency: NvlinkFamily


class PcieFile(StrictModel):
    """PCIe between the GPUs of a host that NVLink does not join."""

    gbytes_per_second: Sourced[Positive]
    latency_microseconds: Sourced[Positive]
    efficiency: PcieFamily


class NicsFile(StrictModel):
    """Equal NICs of a host with different ones."""

    count: Count
    gbits_per_second_per_nic: Sourced[Positive]


class NetworkFile(StrictModel):
    """The network between hosts: equal NICs, or a list of different ones in the GPUs' order."""

    kind: Literal["InfiniBand", "RoCE", "EFA", "eRDMA", "Ethernet"]
    nics_per_node: Count | None = None
    gbits_per_second_per_nic: Sourced[Positive] | None = None
    nics: Annotated[list[NicsFile], Field(min_length=1, max_length=64)] | None = None
    latency_microseconds: Sourced[Positive]
    efficiency: NetworkFamily
    nodes_per_leaf: Annotated[int, Field(ge=1, le=2**14)] | None = None
    oversubscription: Sourced[Annotated[float, Field(ge=1, le=1000)]] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "NetworkFile":
        equal = (self.nics_per_node, self.gbits_per_second_per_nic)
        if (self.nics is None) == (None in equal) or (self.nics and equal != (None, None)):
            _refuse("give nics_per_node and gbits_per_second_per_nic, or else a list of nics")
        if self.oversubscription is not None and self.nodes_per_leaf is None:
            _refuse("oversubscription needs nodes_per_leaf: how many hosts meet below the spine")
        return self

    @property
    def groups(self) -> list[NicsFile]:
        """The NICs of a host, equal ones together."""
        if self.nics is not None:
            return self.nics
        assert self.nics_per_node is not None and self.gbits_per_second_per_nic is not None
        return [
            NicsFile(
                count=self.nics_per_node, gbits_per_second_per_nic=self.gbits_per_second_per_nic
            )
        ]


Factor = Sourced[Annotated[float, Field(ge=0.05, le=20)]]  # beyond it is another machine


class CalibrationFile(StrictModel):
    """What measured steps took over what was predicted: see `planner.cluster.Calibration`."""

    gemm: Factor | None = None
    memory: Factor | None = None
    launch: Factor | None = None
    nvlink: Factor | None = None
    pcie: Factor | None = None
    network: Factor | None = None


class TopologyFile(StrictModel):
    """A topology. `like` names a topology that comes with the planner, or a YAML file by its path
    from this one: its keys hold where this file gives none; it was applied before."""

    like: str | None = None
    description: str
    gpu: Annotated[GpuFile, BeforeValidator(_gpu_by_name)]
    gpus_per_node: Count
    host_memory_gib: Sourced[Positive]
    cpus_per_node: Sourced[Count]
    nvlink: NvlinkFile | None = None
    pcie: PcieFile | None = None
    network: NetworkFile
    calibration: CalibrationFile | None = None

    @model_validator(mode="after")
    def _domains_are_parts_or_multiples_of_hosts(self) -> "TopologyFile":
        gpus, domain = self.gpus_per_node, self.nvlink_domain_size
        if gpus % domain and domain % gpus:
            _refuse("nvlink.domain_size must divide gpus_per_node or be a multiple of it")
        if domain < gpus and self.pcie is None:
            _refuse("pcie is missing: NVLink does not join all GPUs of a host")
        return self

    @property
    def nvlink_domain_size(self) -> int:
        """GPUs that NVLink joins; 1 without."""
        return self.nvlink.domain_size if self.nvlink else 1


def _refuse(reason: str) -> None:
    raise PydanticCustomError("inconsistent", "{reason}", {"reason": reason})


def merged(base: Any, over: Any) -> Any:
    """`base` with what `over` gives in its place; mappings key by key, sourced numbers whole."""
    if not isinstance(base, dict) or not isinstance(over, dict) or "value" in over:
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
