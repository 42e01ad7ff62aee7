"""The cluster as a networkx graph, and what is read from it: on which link two GPUs meet."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from planner.cluster import NETWORK, NVLINK, Cluster, Link

if TYPE_CHECKING:
    import networkx

PCIE = "pcie"

GraphNode = tuple[str, int, int]  # kind, host (-1: shared), index
_SPINE: GraphNode = ("spine", -1, 0)


@dataclass(frozen=True, slots=True)
class Path:
    """The way between two GPUs: its slowest class of link, the narrowest bandwidth, all latency."""

    link_class: str
    bandwidth_bytes_per_second: float
    latency_seconds: float


@cache
def cluster_graph(cluster: Cluster) -> "networkx.Graph":
    """GPUs, NVSwitches, NICs and switches as nodes, the links between them as edges.

    It holds at most two hosts: every other pair looks the same, so that 16,384 GPUs cost what 16
    do. NIC j of every host is on leaf switch j (a rail). Nodes are (kind, host, index). Edges have
    kind, bandwidth_bytes_per_second of one direction, and latency_seconds: half of a hop's latency
    is at either end.
    """
    from networkx import Graph  # 0.2 s: only what asks for a graph pays it

    graph = Graph()
    for host in range(min(cluster.num_nodes, 2)):
        for index in range(cluster.gpus_per_node):
            _connect(
                graph,
                ("gpu", host, index),
                ("nvswitch", host, index // cluster.nvlink_domain_size),
                NVLINK,
                cluster.nvlink_bandwidth_bytes_per_second,
                cluster.nvlink_latency_seconds / 2,
            )
        for gpu, nic in _gpu_nic_pairs(cluster):
            bandwidth = cluster.gpu.pcie_bandwidth_bytes_per_second
            latency = cluster.network_latency_seconds / 2
            _connect(graph, ("gpu", host, gpu), ("nic", host, nic), PCIE, bandwidth, latency)
        for nic in range(cluster.nics_per_node):
            bandwidth, leaf = cluster.nic_bandwidth_bytes_per_second, ("leaf", -1, nic)
            _connect(graph, ("nic", host, nic), leaf, NETWORK, bandwidth, 0.0)
            _connect(graph, leaf, _SPINE, NETWORK, bandwidth * cluster.num_nodes, 0.0)
    return graph


def _gpu_nic_pairs(cluster: Cluster) -> Iterable[tuple[int, int]]:
    """Which GPU of a host uses which NIC: they share, or have several, in equal parts."""
    gpus, nics = cluster.gpus_per_node, cluster.nics_per_node
    if nics <= gpus:
        return ((gpu, gpu * nics // gpus) for gpu in range(gpus))
    return ((nic * gpus // nics, nic) for nic in range(nics))


def _connect(
    graph: "networkx.Graph",
    one: GraphNode,
    other: GraphNode,
    kind: str,
    bandwidth: float,
    latency: float,
) -> None:
    graph.add_edge(
        one, other, kind=kind, bandwidth_bytes_per_second=bandwidth, latency_seconds=latency
    )


@cache
def path(cluster: Cluster, gpu: int, other: int, same_host: bool) -> Path:
    """The quickest way from a GPU of one host to one of the same or of another host.

    A NIC's bandwidth is divided among the GPUs that share it, because all of them send at once.
    """
    from networkx import shortest_path

    graph = cluster_graph(cluster)
    one, end = ("gpu", 0, gpu), ("gpu", 0 if same_host else 1, other)
    nodes = shortest_path(graph, one, end, weight="latency_seconds")
    edges: list[dict[str, Any]] = [graph.edges[pair] for pair in pairwise(nodes)]
    latency = sum(edge["latency_seconds"] for edge in edges)
    if all(edge["kind"] == NVLINK for edge in edges):  # no edge at all: a GPU and itself
        inside = cluster.gpu.hbm_bandwidth_bytes_per_second
        widths = (edge["bandwidth_bytes_per_second"] for edge in edges)
        return Path(NVLINK, min(widths, default=inside), latency)
    return Path(NETWORK, min(_network_share(graph, one), _network_share(graph, end)), latency)


def _network_share(graph: "networkx.Graph", gpu: GraphNode) -> float:
    """Bytes per second that a GPU gets of its NICs while all GPUs of the host send."""
    share = 0.0
    for nic in (node for node in graph[gpu] if node[0] == "nic"):
        users = [node for node in graph[nic] if node[0] == "gpu"]
        uplink = sum(
            edge["bandwidth_bytes_per_second"]
            for node, edge in graph[nic].items()
            if node[0] == "leaf"
        )
        share += min(uplink / len(users), graph.edges[gpu, nic]["bandwidth_bytes_per_second"])
    return share


@cache
def links(cluster: Cluster) -> dict[str, Link]:
    """The classes of link of a cluster by name; the network only where there are several hosts."""
    found = {}
    neighbour = min(1, cluster.nvlink_domain_size - 1)
    pairs = [(NVLINK, path(cluster, 0, neighbour, True), cluster.nvlink_efficiency)]
    if cluster.num_nodes > 1:
        pairs.append((NETWORK, path(cluster, 0, 0, False), cluster.network_efficiency))
    for name, way, efficiency in pairs:
        found[name] = Link(
            name=name,
            bandwidth_bytes_per_second=way.bandwidth_bytes_per_second,
            latency_seconds=way.latency_seconds,
            efficiency=efficiency,
        )
    return found
