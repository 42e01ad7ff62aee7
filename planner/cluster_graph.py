"""The cluster as a networkx graph, and what is read from it: what each link gives a GPU."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from planner.cluster import LINK_CLASSES, NETWORK, NVLINK, PCIE, SPINE, Cluster, Link

if TYPE_CHECKING:
    import networkx

GraphNode = tuple[str, int, int]  # kind, place (a host, a domain, a leaf), index
_SPINE: GraphNode = ("spine", 0, 0)
_BEYOND_A_CLASS = 1000  # edges of a way; a faster class is taken however many it needs


@cache
def cluster_graph(cluster: Cluster) -> "networkx.Graph":
    """GPUs, NVSwitches, host bridges, NICs and switches as nodes, the links between them as edges.

    It holds one host, and one more of each relation that a host can have to it: every other pair
    looks the same, so that 16,384 GPUs cost what 16 do. Nodes are (kind, place, index). Edges have
    kind, bandwidth_bytes_per_second of one direction, and latency_seconds: half of a hop's latency
    is at either end. The switches of a leaf are one node: from one of their rails to another GPUs
    go inside a host (NCCL's PXN), not through the spine. A leaf's edge to the spine is what its
    hosts can send over the oversubscription.
    """
    from networkx import Graph  # 0.2 s: only what asks for a graph pays it

    graph = Graph()
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


def _add_nvlink(graph: "networkx.Graph", cluster: Cluster, host: int, domain: int) -> None:
    """A host's GPUs, each at the switch of its NVLink domain."""
    size = cluster.nvlink_domain_size
    for index in range(cluster.gpus_per_node):
        gpu = ("gpu", host, index)
        graph.add_node(gpu)
        if cluster.nvlink_bandwidth_bytes_per_second is None or size == 1:
            continue
        inside = size <= cluster.gpus_per_node
        switch = ("nvswitch", host, index // size) if inside else ("nvswitch", domain, 0)
        latency = cluster.nvlink_latency_seconds
        _connect(graph, gpu, switch, NVLINK, cluster.nvlink_bandwidth_bytes_per_second, latency)


def _add_bridge(graph: "networkx.Graph", cluster: Cluster, host: int) -> None:
    """The PCIe switches and processors between a host's GPUs, as one node."""
    for index in range(cluster.gpus_per_node):
        bandwidth, latency = cluster.pcie_bandwidth_bytes_per_second, cluster.pcie_latency_seconds
        _connect(graph, ("gpu", host, index), ("bridge", host, 0), PCIE, bandwidth, latency)


def _add_network(graph: "networkx.Graph", cluster: Cluster, host: int, leaf: int) -> None:
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
    graph: "networkx.Graph",
    one: GraphNode,
    other: GraphNode,
    kind: str,
    bandwidth: float | None,
    hop_latency: float | None,
) -> None:
    graph.add_edge(
        one,
        other,
        kind=kind,
        bandwidth_bytes_per_second=bandwidth,
        latency_seconds=(hop_latency or 0.0) / 2,
    )


def links(cluster: Cluster) -> dict[str, Link]:
    """The classes of link that the GPUs of a cluster meet, by name; none where one GPU is alone."""
    from networkx import single_source_dijkstra_path

    graph = cluster_graph(cluster)
    start = ("gpu", 0, 0)
    paths = single_source_dijkstra_path(graph, start, weight=_cost_from(start))
    found: dict[str, list[dict[str, Any]]] = {}
    for end, nodes in paths.items():
        if end[0] == "gpu" and end != start:
            edges = [graph.edges[pair] for pair in pairwise(nodes)]
            found[max((edge["kind"] for edge in edges), key=LINK_CLASSES.index)] = edges
    return {
        name: Link(
            name=name,
            bandwidth_bytes_per_second=_bandwidth(graph, cluster, name, found[name]),
            latency_seconds=sum(edge["latency_seconds"] for edge in found[name]),
            efficiency=_efficiency(cluster, name),
        )
        for name in LINK_CLASSES
        if name in found
    }


def _cost_from(start: GraphNode) -> Callable[[GraphNode, GraphNode, dict[str, Any]], int | None]:
    """Weights of edges: GPUs meet on the fastest class that joins them, not through a third one."""

    def cost(one: GraphNode, other: GraphNode, edge: dict[str, Any]) -> int | None:
        if one[0] == "gpu" and one != start:
            return None
        return int(_BEYOND_A_CLASS ** LINK_CLASSES.index(edge["kind"]))

    return cost


def _bandwidth(
    graph: "networkx.Graph", cluster: Cluster, name: str, edges: list[dict[str, Any]]
) -> float:
    """Bytes per second of a GPU on a class of link, while all GPUs of its host send."""
    if name in (NVLINK, PCIE):
        return min(float(edge["bandwidth_bytes_per_second"]) for edge in edges)
    share = narrowest_nic_share(graph, cluster.gpus_per_node)
    if name == NETWORK:
        return share
    uplink = min(edge["bandwidth_bytes_per_second"] for edge in edges if edge["kind"] == SPINE)
    return min(share, float(uplink) / cluster.leaf_size)


def narrowest_nic_share(graph: "networkx.Graph", gpus: int) -> float:
    """What the GPU with the least of its host's NICs gets: every kind of group has such GPUs."""
    return min(_nic_share(graph, ("gpu", 0, index)) for index in range(gpus))


def _nic_share(graph: "networkx.Graph", gpu: GraphNode) -> float:
    """Bytes per second that a GPU gets of its NICs; those who share one have equal parts."""
    share = 0.0
    for nic in (node for node in graph[gpu] if node[0] == "nic"):
        users = sum(node[0] == "gpu" for node in graph[nic])
        uplink = graph.edges[nic, ("leaf", 0, 0)]["bandwidth_bytes_per_second"]
        share += min(uplink / users, graph.edges[gpu, nic]["bandwidth_bytes_per_second"])
    return share


def _efficiency(cluster: Cluster, name: str) -> str:
    """The family of data/collectives.yaml of a class of link."""
    families = {NVLINK: cluster.nvlink_efficiency, PCIE: cluster.pcie_efficiency}
    return families.get(name) or cluster.network_efficiency
