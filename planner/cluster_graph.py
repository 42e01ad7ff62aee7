"""The cluster as a graph, and what is read from it: what each link gives a GPU."""

from collections.abc import Iterable, Iterator
from functools import cache
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from planner.cluster import LINK_CLASSES, NETWORK, NVLINK, PCIE, SPINE, Cluster, Link

if TYPE_CHECKING:
    import networkx

GraphNode = tuple[str, int, int]  # kind, place (a host, a domain, a leaf), index


class GraphEdge(NamedTuple):
    """A link between two nodes."""

    kind: str  # one of LINK_CLASSES
    bandwidth_bytes_per_second: float  # of one direction
    latency_seconds: float  # half of a hop's is at either end


# The neighbours of every node.
Graph = dict[GraphNode, dict[GraphNode, GraphEdge]]

_SPINE: GraphNode = ("spine", 0, 0)
_BEYOND_A_CLASS = 1000  # edges of a way; a faster class is taken however many it needs


@cache
def cluster_graph(cluster: Cluster) -> "networkx.Graph":
    """`neighbours` as a networkx graph; the fields of a `GraphEdge` are attributes of its edges."""
    import networkx  # a tenth of a second: only who asks for such a graph pays it

    graph = networkx.Graph()
    for node, others in neighbours(cluster).items():
        graph.add_node(node)
        graph.add_edges_from((node, other, edge._asdict()) for other, edge in others.items())
    return graph


def neighbours(cluster: Cluster) -> Graph:
    """GPUs, NVSwitches, host bridges, NICs and switches, and the links between them.

    It holds one host, and one more of each relation that a host can have to it: every other pair
    looks the same, so that 16,384 GPUs cost what 16 do. The switches of a leaf are one node: from
    one of their rails to another GPUs go inside a host (NCCL's PXN), not through the spine. A
    leaf's edge to the spine is what its hosts can send over the oversubscription.
    """
    graph: Graph = {}
    for host, (domain, leaf) in enumerate(_hosts(cluster)):
        _add_nvlink(graph, cluster, host, domain)
        if cluster.nvlink_domain_size < cluster.gpus_per_node:
            _add_bridge(graph, cluster, host)
        if cluster.num_nodes > 1:
            _add_network(graph, cluster, host, leaf)
    return graph


def _hosts(cluster: Cluster) -> Iterator[tuple[int, int]]:
    """NVLink domain and leaf of the host that is looked from, and of one of each other relation.

    Blocks of neighbouring hosts: two hosts can share both blocks, or one of them where a border of
    the other lies inside it, or none.
    """
    nodes = cluster.num_nodes
    domain = max(1, cluster.nvlink_domain_size // cluster.gpus_per_node)
    leaf = cluster.leaf_size // cluster.gpus_per_node
    yield 0, 0
    if min(domain, leaf, nodes) > 1:
        yield 0, 0
    if leaf < nodes and leaf % domain:
        yield 0, 1
    if domain < nodes and domain % leaf:
        yield 1, 0
    if max(domain, leaf) < nodes:
        yield 1, 1


def _add_nvlink(graph: Graph, cluster: Cluster, host: int, domain: int) -> None:
    """A host's GPUs, each at the switch of its NVLink domain."""
    size = cluster.nvlink_domain_size
    for index in range(cluster.gpus_per_node):
        gpu = ("gpu", host, index)
        graph.setdefault(gpu, {})
        if cluster.nvlink_bandwidth_bytes_per_second is None or size == 1:
            continue
        inside = size <= cluster.gpus_per_node
        switch = ("nvswitch", host, index // size) if inside else ("nvswitch", domain, 0)
        latency = cluster.nvlink_latency_seconds
        _connect(graph, gpu, switch, NVLINK, cluster.nvlink_bandwidth_bytes_per_second, latency)


def _add_bridge(graph: Graph, cluster: Cluster, host: int) -> None:
    """The PCIe switches and processors between a host's GPUs, as one node."""
    for index in range(cluster.gpus_per_node):
        bandwidth, latency = cluster.pcie_bandwidth_bytes_per_second, cluster.pcie_latency_seconds
        _connect(graph, ("gpu", host, index), ("bridge", host, 0), PCIE, bandwidth, latency)


def _add_network(graph: Graph, cluster: Cluster, host: int, leaf: int) -> None:
    """A host's NICs between its GPUs and its leaf, and the leaf's way to the spine."""
    nics = cluster.nic_bandwidths_bytes_per_second
    switch = ("leaf", leaf, 0)
    for gpu, nic in _gpu_nic_pairs(cluster.gpus_per_node, len(nics)):
        lanes, latency = (
            cluster.gpu.pcie_bandwidth_bytes_per_second,
            cluster.network_latency_seconds,
        )
        _connect(graph, ("gpu", host, gpu), ("nic", host, nic), NETWORK, lanes, latency)
    for nic, bandwidth in enumerate(nics):
        _connect(graph, ("nic", host, nic), switch, NETWORK, bandwidth, 0.0)
    if cluster.leaf_size < cluster.num_gpus:
        hosts = cluster.leaf_size // cluster.gpus_per_node
        uplink = hosts * sum(nics) / cluster.oversubscription
        _connect(graph, switch, _SPINE, SPINE, uplink, 0.0)


def _gpu_nic_pairs(gpus: int, nics: int) -> Iterable[tuple[int, int]]:
    """Which GPU of a host uses which NIC: neighbours share one, or have several, as evenly as it
    goes."""
    if nics <= gpus:
        return ((gpu, gpu * nics // gpus) for gpu in range(gpus))
    return ((nic * gpus // nics, nic) for nic in range(nics))


def _connect(
    graph: Graph,
    one: GraphNode,
    other: GraphNode,
    kind: str,
    bandwidth: float | None,
    hop_latency: float | None,
) -> None:
    assert bandwidth is not None  # a cluster has that of every class of link that it has
    edge = GraphEdge(kind, bandwidth, (hop_latency or 0.0) / 2)
    graph.setdefault(one, {})[other] = edge
    graph.setdefault(other, {})[one] = edge


def links(cluster: Cluster) -> dict[str, Link]:
    """The classes of link that the GPUs of a cluster meet, by name; none where one GPU is alone."""
    graph = neighbours(cluster)
    found: dict[str, tuple[GraphEdge, ...]] = {}
    for end, edges in ways_from(graph, ("gpu", 0, 0)).items():
        if end[0] == "gpu" and edges:
            found[max((edge.kind for edge in edges), key=LINK_CLASSES.index)] = edges
    return {
        name: Link(
            name=name,
            bandwidth_bytes_per_second=_bandwidth(graph, cluster, name, found[name]),
            latency_seconds=sum(edge.latency_seconds for edge in found[name]),
            efficiency=_efficiency(cluster, name),
        )
        for name in LINK_CLASSES
        if name in found
    }


def ways_from(graph: Graph, start: GraphNode) -> dict[GraphNode, tuple[GraphEdge, ...]]:
    """The edges from a GPU to every node: GPUs meet on the fastest class that joins them, not
    through a third one (Dijkstra's algorithm; tests hold it against that of networkx)."""
    ways: dict[GraphNode, tuple[GraphEdge, ...]] = {}
    # what a way costs, a number that no other has, its end, its edges
    waiting: list[tuple[int, int, GraphNode, tuple[GraphEdge, ...]]] = [(0, 0, start, ())]
    pushed = 0
    while waiting:
        cost, _, node, way = heappop(waiting)
        if node in ways:
            continue
        ways[node] = way
        if node[0] == "gpu" and node != start:
            continue
        for other, edge in graph[node].items():
            if other not in ways:
                pushed += 1
                farther = cost + _BEYOND_A_CLASS ** LINK_CLASSES.index(edge.kind)
                heappush(waiting, (farther, pushed, other, (*way, edge)))
    return ways


def _bandwidth(graph: Graph, cluster: Cluster, name: str, edges: Iterable[GraphEdge]) -> float:
    """Bytes per second of a GPU on a class of link, while all GPUs of its host send."""
    if name in (NVLINK, PCIE):
        return min(edge.bandwidth_bytes_per_second for edge in edges)
    share = narrowest_nic_share(graph, cluster.gpus_per_node)
    if name == NETWORK:
        return share
    uplink = min(edge.bandwidth_bytes_per_second for edge in edges if edge.kind == SPINE)
    return min(share, uplink / cluster.leaf_size)


def narrowest_nic_share(graph: Graph, gpus: int) -> float:
    """What the GPU with the least of its host's NICs gets: every kind of group has such GPUs."""
    return min(_nic_share(graph, ("gpu", 0, index)) for index in range(gpus))


def _nic_share(graph: Graph, gpu: GraphNode) -> float:
    """Bytes per second that a GPU gets of its NICs; those who share one have equal parts."""
    share = 0.0
    for nic, lanes in graph[gpu].items():
        if nic[0] == "nic":
            users = sum(node[0] == "gpu" for node in graph[nic])
            uplink = graph[nic]["leaf", 0, 0].bandwidth_bytes_per_second
            share += min(uplink / users, lanes.bandwidth_bytes_per_second)
    return share


def _efficiency(cluster: Cluster, name: str) -> str:
    """The family of data/collectives.yaml of a class of link."""
    families = {NVLINK: cluster.nvlink_efficiency, PCIE: cluster.pcie_efficiency}
    return families.get(name) or cluster.network_efficiency
