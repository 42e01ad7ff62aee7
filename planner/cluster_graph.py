"""The cluster as a graph, and what is read from it: on which link two GPUs meet."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from planner.cluster import NETWORK, NVLINK, Cluster, Link

if TYPE_CHECKING:
    import networkx

PCIE = "pcie"

GraphNode = tuple[str, int, int]  # kind, host (-1: shared), index
_SPINE: GraphNode = ("spine", -1, 0)


@dataclass(frozen=True, slots=True)
class Edge:
    """A link of the graph; the bandwidth is of one direction."""

    kind: str
    bandwidth_bytes_per_second: float
    latency_seconds: float


@dataclass(frozen=True, slots=True)
class Path:
    """The way between two GPUs: its slowest class of link, the narrowest bandwidth, all latency."""

    link_class: str
    bandwidth_bytes_per_second: float
    latency_seconds: float


def cluster_graph(cluster: Cluster) -> "networkx.Graph":
    """GPUs, NVSwitches, NICs and switches as nodes, the links between them as edges.

    Nodes are (kind, host, index); edges have the fields of `Edge`.
    """
    from networkx import Graph  # takes longer than reading all ways that a search asks for

    graph = Graph()
    for one, other, edge in _edges(cluster):
        graph.add_edge(
            one,
            other,
            kind=edge.kind,
            bandwidth_bytes_per_second=edge.bandwidth_bytes_per_second,
            latency_seconds=edge.latency_seconds,
        )
    return graph


def _edges(cluster: Cluster) -> Iterator[tuple[GraphNode, GraphNode, Edge]]:
    """All links of at most two hosts.

    Every other pair of hosts looks the same, so that 16,384 GPUs cost what 16 do. NIC j of every
    host is on leaf switch j (a rail). Half of a hop's latency is at either end.
    """
    nvlink = Edge(
        NVLINK, cluster.nvlink_bandwidth_bytes_per_second, cluster.nvlink_latency_seconds / 2
    )
    pcie = Edge(
        PCIE, cluster.gpu.pcie_bandwidth_bytes_per_second, cluster.network_latency_seconds / 2
    )
    rail = Edge(NETWORK, cluster.nic_bandwidth_bytes_per_second, 0.0)
    uplink = Edge(NETWORK, cluster.nic_bandwidth_bytes_per_second * cluster.num_nodes, 0.0)
    for host in range(min(cluster.num_nodes, 2)):
        for index in range(cluster.gpus_per_node):
            switch = ("nvswitch", host, index // cluster.nvlink_domain_size)
            yield ("gpu", host, index), switch, nvlink
        for gpu, nic in _gpu_nic_pairs(cluster):
            yield ("gpu", host, gpu), ("nic", host, nic), pcie
        for nic in range(cluster.nics_per_node):
            yield ("nic", host, nic), ("leaf", -1, nic), rail
            yield ("leaf", -1, nic), _SPINE, uplink


def _gpu_nic_pairs(cluster: Cluster) -> Iterable[tuple[int, int]]:
    """Which GPU of a host uses which NIC: they share, or have several, in equal parts."""
    gpus, nics = cluster.gpus_per_node, cluster.nics_per_node
    if nics <= gpus:
        return ((gpu, gpu * nics // gpus) for gpu in range(gpus))
    return ((nic * gpus // nics, nic) for nic in range(nics))


Neighbours = dict[GraphNode, dict[GraphNode, Edge]]


@cache
def _neighbours(cluster: Cluster) -> Neighbours:
    """The graph as a dict of dicts."""
    found: Neighbours = {}
    for one, other, edge in _edges(cluster):
        found.setdefault(one, {})[other] = edge
        found.setdefault(other, {})[one] = edge
    return found


def _quickest(graph: Neighbours, one: GraphNode, end: GraphNode) -> list[Edge]:
    """The links of the way with the least latency (Dijkstra)."""
    reached: list[tuple[float, int, GraphNode, list[Edge]]] = [(0.0, 0, one, [])]
    seen: set[GraphNode] = set()
    while reached:
        latency, hops, node, edges = heapq.heappop(reached)
        if node == end:
            return edges
        if node in seen:
            continue
        seen.add(node)
        for neighbour, edge in graph[node].items():
            if neighbour not in seen:
                way = (latency + edge.latency_seconds, hops + 1, neighbour, [*edges, edge])
                heapq.heappush(reached, way)
    raise AssertionError(f"no way from {one} to {end}")


@cache
def path(cluster: Cluster, gpu: int, other: int, same_host: bool) -> Path:
    """The quickest way from a GPU of one host to one of the same or of another host.

    A NIC's bandwidth is divided among the GPUs that share it, because all of them send at once.
    """
    graph = _neighbours(cluster)
    one, end = ("gpu", 0, gpu), ("gpu", 0 if same_host else 1, other)
    edges = _quickest(graph, one, end)
    latency = sum(edge.latency_seconds for edge in edges)
    if all(edge.kind == NVLINK for edge in edges):  # no edge at all: a GPU and itself
        inside = cluster.gpu.hbm_bandwidth_bytes_per_second
        widths = (edge.bandwidth_bytes_per_second for edge in edges)
        return Path(NVLINK, min(widths, default=inside), latency)
    return Path(NETWORK, min(_network_share(graph, one), _network_share(graph, end)), latency)


def _network_share(graph: Neighbours, gpu: GraphNode) -> float:
    """Bytes per second that a GPU gets of its NICs while all GPUs of the host send."""
    share = 0.0
    for nic in (node for node in graph[gpu] if node[0] == "nic"):
        users = [node for node in graph[nic] if node[0] == "gpu"]
        uplink = sum(
            edge.bandwidth_bytes_per_second
            for node, edge in graph[nic].items()
            if node[0] == "leaf"
        )
        share += min(uplink / len(users), graph[gpu][nic].bandwidth_bytes_per_second)
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
