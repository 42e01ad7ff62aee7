"""Which links the groups of a layout cross, read from how their ranks lie on the cluster."""

from dataclasses import dataclass
from functools import cache
from math import gcd

from planner.cluster import NETWORK, NVLINK, PCIE, SPINE, Cluster
from planner.grids import GROUP_AXES, Grids


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlacement:
    """How all groups of one name lie on the cluster; where they differ, the worst in each respect.

    An island is what communicates without the network: a host, or an NVLink domain over several.
    All groups of a name communicate at once: the bandwidth is what one GPU gets then.
    """

    size: int
    islands_spanned: int  # the most that a group spans
    ranks_per_island: int  # the fewest that a group has on one of its islands
    span: int  # GPUs of the smallest half, quarter, ... of a host that a group fits in
    link_class: str  # the slowest that it crosses: "nvlink", "pcie" or "network"
    inside_class: str  # the slowest inside its islands: "nvlink" or "pcie"
    bandwidth_bytes_per_second: float  # per direction and GPU on the slowest link
    latency_seconds: float  # of one hop on it


def place(cluster: Cluster, grids: Grids) -> dict[str, GroupPlacement]:
    """The placement of every group of `planner.grids.GROUP_AXES`, by its name."""
    return {name: place_group(cluster, grids, name) for name in GROUP_AXES}


def place_group(cluster: Cluster, grids: Grids, name: str) -> GroupPlacement:
    """The placement of the groups of one name.

    The axes of a group follow one another in the order of ranks: together they are one axis.
    """
    stride = grids.axis(GROUP_AXES[name][0])[1]
    return place_ranks(cluster, grids.world_size, grids.size(name), stride)


@cache
def place_ranks(cluster: Cluster, world_size: int, size: int, stride: int) -> GroupPlacement:
    """The placement of groups of ranks that are so far from one another."""

    def lie(block: int) -> "Spread":
        return spread(world_size, size, stride, block)

    islands = lie(cluster.island_size)
    in_a_domain = lie(cluster.nvlink_domain_size).blocks == 1
    if in_a_domain:
        crossed = NVLINK
    elif islands.blocks == 1:
        crossed = PCIE
    else:
        crossed = SPINE if lie(cluster.leaf_size).blocks > 1 else NETWORK
    whole = cluster.nvlink_domain_size >= cluster.gpus_per_node
    inside = NVLINK if in_a_domain or whole else PCIE
    link = cluster.links.get(crossed)  # a GPU alone has none: it reads its own memory
    return GroupPlacement(
        size=size,
        islands_spanned=islands.blocks,
        ranks_per_island=islands.fewest,
        span=min(1 << ((size - 1) * stride).bit_length(), cluster.gpus_per_node),
        link_class=NETWORK if crossed == SPINE else crossed,
        inside_class=inside,
        bandwidth_bytes_per_second=(
            link.bandwidth_bytes_per_second if link else cluster.gpu.hbm_bandwidth_bytes_per_second
        ),
        latency_seconds=link.latency_seconds if link else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """How groups lie on blocks of neighbouring ranks."""

    blocks: int  # the most that a group touches
    fewest: int  # ranks of a group in a block that it touches


def spread(world_size: int, size: int, stride: int, block: int) -> Spread:
    """How all groups of `size` ranks, `stride` apart, lie on blocks of `block` ranks.

    Only where a group begins in its block matters: at most `block` beginnings differ, however
    large the world is.
    """
    length = size * stride
    if block % length == 0 or size == 1:
        return Spread(1, size)
    if stride >= block:
        return Spread(size, 1)
    if length % block == 0 and block % stride == 0:
        return Spread(length // block, block // stride)
    repeats = min(world_size // length, block // gcd(block, length))
    begins = {
        (repeat * length + offset) % block for repeat in range(repeats) for offset in range(stride)
    }
    lying = [_on_blocks(begin, size, stride, block) for begin in begins]
    return Spread(max(len(counts) for counts in lying), min(min(counts) for counts in lying))


def _on_blocks(begin: int, size: int, stride: int, block: int) -> list[int]:
    """Ranks of a group on each block that it touches; `stride` is less than `block`."""
    ends = range(block, begin + size * stride + block, block)
    passed = [min(size, max(0, -((begin - end) // stride))) for end in ends]
    counts = [after - before for before, after in zip([0, *passed], passed, strict=False)]
    return [count for count in counts if count]
