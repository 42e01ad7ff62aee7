"""What a job runs on: GPUs, the hosts that hold them and the links between them."""

from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx

# The classes of link, the fastest first. SPINE is the network again, between groups of hosts that
# share no leaf switch.
NVLINK = "nvlink"
PCIE = "pcie"
NETWORK = "network"
SPINE = "spine"
LINK_CLASSES = (NVLINK, PCIE, NETWORK, SPINE)

HOST_MEMORY = "cluster.host_memory_gib"  # the id of an assumption: see planner.topology_files


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

    name: str  # one of LINK_CLASSES
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What measured steps took over what was predicted of them, by what the time was spent on.

    1: as predicted. `plan calibrate` finds the factors; a topology file carries them.
    """

    gemm: float = 1.0  # matrix products and attention
    memory: float = 1.0  # what reads and writes device memory
    launch: float = 1.0  # what the host takes to launch kernels
    nvlink: float = 1.0  # collectives whose slowest link is NVLink
    pcie: float = 1.0  # the same of PCIe
    network: float = 1.0  # and of the network, its spine too

    def of_link(self, link_class: str) -> float:
        """The factor of collectives whose slowest link is of this class."""
        factor: float = getattr(self, NETWORK if link_class == SPINE else link_class)
        return factor


AS_PREDICTED = Calibration()


@dataclass(frozen=True, kw_only=True, eq=False)
class Cluster:
    """Equal hosts on a network of leaf switches below one spine.

    Rank r is GPU r mod gpus_per_node of host r div gpus_per_node. NVLink domains are made of
    neighbouring ranks, and so are the hosts of a leaf; the last of either may be partial.
    """

    name: str
    description: str
    num_nodes: int
    gpus_per_node: int  # what the job uses of a host
    host_gpus: int  # what a host has
    gpu: Gpu
    # GPUs that reach each other over NVLink when whole hosts are used: a divisor of host_gpus, or
    # a multiple of it where a domain has several hosts; 1 without NVLink
    host_nvlink_domain_size: int
    nvlink_bandwidth_bytes_per_second: float | None  # per direction and GPU; None: no NVLink
    nvlink_latency_seconds: float | None
    nvlink_efficiency: str | None
    pcie_bandwidth_bytes_per_second: float | None  # between GPUs; None: NVLink joins a whole host
    pcie_latency_seconds: float | None
    pcie_efficiency: str | None
    network_kind: str  # InfiniBand | RoCE | EFA | eRDMA | Ethernet
    # per direction, of every NIC of a whole host that carries training, in the GPUs' order
    host_nic_bandwidths_bytes_per_second: tuple[float, ...]
    network_latency_seconds: float
    network_efficiency: str
    nodes_per_leaf: int | None  # hosts that meet below the spine; None: all
    oversubscription: float  # what the hosts of a leaf send over what its way to the spine takes
    host_memory_bytes: int  # of one host
    cpus_per_node: int
    assumptions: tuple[Assumption, ...]
    calibration: Calibration = AS_PREDICTED

    @property
    def num_gpus(self) -> int:
        """GPUs of all hosts."""
        return self.num_nodes * self.gpus_per_node

    @property
    def assumes_host_memory(self) -> bool:
        """Whether nobody knows what memory the hosts have: their topology assumes it."""
        return any(each.id == HOST_MEMORY for each in self.assumptions)

    @cached_property
    def nvlink_domain_size(self) -> int:
        """Ranks that reach each other over NVLink; 1: none.

        Where the job uses a part of a host that holds a part of a domain, domains are counted in
        their common divisor, so that all are equal.
        """
        hosts = self.host_nvlink_domain_size // self.host_gpus
        if hosts:
            return hosts * self.gpus_per_node
        if self.host_nvlink_domain_size >= self.gpus_per_node:
            return self.gpus_per_node
        return gcd(self.host_nvlink_domain_size, self.gpus_per_node)

    @cached_property
    def island_size(self) -> int:
        """Ranks that reach each other without the network: a host, or NVLink over several."""
        return max(self.gpus_per_node, self.nvlink_domain_size)

    @cached_property
    def leaf_size(self) -> int:
        """Ranks below one leaf switch."""
        return (self.nodes_per_leaf or self.num_nodes) * self.gpus_per_node

    @cached_property
    def nic_bandwidths_bytes_per_second(self) -> tuple[float, ...]:
        """Per direction, of the NICs that the used GPUs of a host have."""
        nics = self.host_nic_bandwidths_bytes_per_second
        return nics[: -(-len(nics) * self.gpus_per_node // self.host_gpus)]

    @property
    def nics_per_node(self) -> int:
        """NICs that the used GPUs of a host have."""
        return len(self.nic_bandwidths_bytes_per_second)

    @cached_property
    def links(self) -> dict[str, Link]:
        """The classes of link that the job can meet, by name, read from the graph."""
        from planner.cluster_graph import links

        return links(self)

    def graph(self) -> "networkx.Graph":
        """GPUs, NVSwitches, NICs and switches: see `planner.cluster_graph.cluster_graph`."""
        from planner.cluster_graph import cluster_graph

        return cluster_graph(self)
