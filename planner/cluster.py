"""What a job runs on: GPUs, the hosts that hold them and the links between them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx

NVLINK = "nvlink"
NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator. FLOP/s are dense; bandwidths are of one direction."""

    name: str
    memory_usable_bytes: int  # torch's total_memory
    bf16_flops_per_second: float
    hbm_bandwidth_bytes_per_second: float
    pcie_bandwidth_bytes_per_second: float
    compute_capability: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A class of link between GPUs, as one GPU sees it while all GPUs of the host use it."""

    name: str  # NVLINK or NETWORK
    bandwidth_bytes_per_second: float  # per direction and GPU
    latency_seconds: float  # of one hop from GPU to GPU
    efficiency: str  # a family of data/collectives.yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A number that was neither given nor measured nor published."""

    id: str
    value: float | str | tuple[str, ...]
    unit: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cluster:
    """Equal hosts on a network that is nowhere narrower than their NICs.

    Rank r is GPU r mod gpus_per_node of host r div gpus_per_node.
    """

    name: str
    description: str
    num_nodes: int
    gpus_per_node: int
    gpu: Gpu
    nvlink_domain_size: int  # GPUs that reach each other over NVLink; a divisor of gpus_per_node
    nvlink_bandwidth_bytes_per_second: float  # per direction and GPU
    nvlink_latency_seconds: float
    nvlink_efficiency: str
    network_kind: str  # InfiniBand | RoCE | eRDMA | Ethernet
    nics_per_node: int
    nic_bandwidth_bytes_per_second: float  # per direction and NIC
    network_latency_seconds: float
    network_efficiency: str
    host_memory_bytes: int  # of one host
    cpus_per_node: int
    assumptions: tuple[Assumption, ...]

    @property
    def num_gpus(self) -> int:
        """GPUs of all hosts."""
        return self.num_nodes * self.gpus_per_node

    @property
    def links(self) -> dict[str, Link]:
        """The classes of link by name, read from the graph."""
        from planner.cluster_graph import links

        return links(self)

    def graph(self) -> "networkx.Graph":
        """GPUs, NVSwitches, NICs and switches: see `planner.cluster_graph.cluster_graph`."""
        from planner.cluster_graph import cluster_graph

        return cluster_graph(self)
