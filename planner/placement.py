"""Which links the groups of a layout cross, read from the rank groups and the cluster's graph."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import lcm

from planner.cluster import Cluster
from planner.cluster_graph import Path, path
from planner.grids import GROUP_AXES, Grids


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlacement:
    """How all groups of one name lie on the cluster; where they differ, the worst of them.

    All groups of a name communicate at once: the bandwidth is what one GPU gets then.
    """

    size: int
    nodes_spanned: int  # the most that a group spans
    ranks_per_node: int  # the fewest that a group has on one of its nodes
    link_class: str  # "nvlink" or "network"
    bandwidth_bytes_per_second: float  # per direction and GPU on that link
    latency_seconds: float  # of one hop on it


def place(cluster: Cluster, grids: Grids) -> dict[str, GroupPlacement]:
    """The placement of every group of `planner.grids.GROUP_AXES`, by its name."""
    return {name: place_group(cluster, grids, name) for name in GROUP_AXES}


def place_group(cluster: Cluster, grids: Grids, name: str) -> GroupPlacement:
    """The placement of the groups of one name."""
    axes = tuple(grids.axis(axis) for axis in GROUP_AXES[name])
    return _place(cluster, grids.world_size, axes)


def link_class(cluster: Cluster, ranks: Iterable[int]) -> str:
    """The slowest class of link that the traffic of a group crosses."""
    return _slowest_path(cluster, tuple(ranks)).link_class


Axes = tuple[tuple[int, int], ...]  # size and stride of each axis of a group, fastest first


@cache
def _place(cluster: Cluster, world_size: int, axes: Axes) -> GroupPlacement:
    offsets = _offsets(axes)
    firsts = _distinct_first_ranks(cluster.gpus_per_node, world_size, axes)
    spans = {first: _ranks_on_nodes(cluster, first, offsets) for first in firsts}
    worst = min(firsts, key=lambda first: (-len(spans[first]), min(spans[first].values())))
    way = _slowest_path(cluster, tuple(worst + offset for offset in offsets))
    return GroupPlacement(
        size=len(offsets),
        nodes_spanned=len(spans[worst]),
        ranks_per_node=min(spans[worst].values()),
        link_class=way.link_class,
        bandwidth_bytes_per_second=way.bandwidth_bytes_per_second,
        latency_seconds=way.latency_seconds,
    )


def _offsets(axes: Axes) -> tuple[int, ...]:
    """Ranks of a group, counted from its first."""
    offsets = [0]
    for size, stride in axes:
        offsets = [offset + step * stride for step in range(size) for offset in offsets]
    return tuple(offsets)


def _distinct_first_ranks(gpus_per_node: int, world_size: int, axes: Axes) -> list[int]:
    """First ranks of groups that may lie differently on the nodes: all others repeat these.

    Where every stride and every block of an axis divides a node or is made of whole nodes, each
    group lies as the first one does.
    """
    marks = [mark for size, stride in axes for mark in (stride, stride * size)]
    if all(gpus_per_node % mark == 0 or mark % gpus_per_node == 0 for mark in marks):
        return [0]
    period = min(world_size, lcm(gpus_per_node, *marks))
    return [
        rank for rank in range(period) if all(rank // stride % size == 0 for size, stride in axes)
    ]


def _ranks_on_nodes(cluster: Cluster, first: int, offsets: tuple[int, ...]) -> Counter[int]:
    """How many ranks of a group each node holds."""
    return Counter((first + offset) // cluster.gpus_per_node for offset in offsets)


def _slowest_path(cluster: Cluster, ranks: tuple[int, ...]) -> Path:
    """The worst way from the first rank to another; to itself when it is alone.

    Sharing an NVLink domain is transitive, so a group that leaves one shows it from its first rank.
    """
    node, gpu = divmod(ranks[0], cluster.gpus_per_node)
    ends = {(rank % cluster.gpus_per_node, rank // cluster.gpus_per_node == node) for rank in ranks}
    ways = [path(cluster, gpu, end, same_node) for end, same_node in sorted(ends)]
    return min(ways, key=lambda way: way.bandwidth_bytes_per_second)
