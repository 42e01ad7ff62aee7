"""How long a collective takes on the links that its group crosses, from measured fractions of them.

Inside an NVLink domain: measured times by size and number of ranks, and otherwise (in larger groups
than were measured, over a host's PCIe) alpha-beta fits.
Across islands: the rings of all_gather, reduce_scatter and all_reduce enter and leave an island
over the NICs of all ranks that the group has there; all_to_all sends (n - k)/n of its bytes over
the NICs (k ranks on an island) and the rest inside at the same time. Source of the rules:
NVIDIA/nccl src/graph/tuning.cc @5067397.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from planner.cluster import NETWORK, PCIE, Cluster, Link
from planner.placement import GroupPlacement
from planner.units import GIGA, MIB, MICRO
from planner.yaml_files import StrictModel, load_yaml_model

Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "p2p"]

COLLECTIVES_FILE = Path(__file__).parent / "data" / "collectives.yaml"


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a collective reaches on a class of link.

    `measured` are bytes and seconds of a collective of `ranks` ranks on links of so many bytes per
    second; none: only the other two are known.
    """

    fraction: float  # of the link's bandwidth
    latency_seconds: float  # before the first byte; hops between nodes come on top
    ranks: int
    measured: tuple[tuple[float, ...], tuple[float, ...]] | None
    measured_bandwidth: float

    def seconds(
        self, num_bytes: float, traffic: float, measured_traffic: float, bandwidth: float
    ) -> float:
        """Seconds on a link of a bandwidth, for a buffer of which each rank sends `traffic`."""
        if self.measured is None:
            return self.latency_seconds + num_bytes * traffic / (bandwidth * self.fraction)
        sizes, seconds = self.measured
        size = num_bytes * traffic / measured_traffic * self.measured_bandwidth / bandwidth
        if size <= sizes[0]:
            return seconds[0]
        index = min(bisect_left(sizes, size), len(sizes) - 1)
        slope = (seconds[index] - seconds[index - 1]) / (sizes[index] - sizes[index - 1])
        return seconds[index] + slope * (size - sizes[index])


class _Point(StrictModel):
    ranks: int
    fraction: Annotated[float, Field(gt=0, le=1)]
    latency_microseconds: Annotated[float, Field(ge=0)]
    microseconds: list[Annotated[float, Field(gt=0)]] | None = None  # at each of sizes_mib


class _Family(StrictModel):
    source: str
    assumed: bool = False
    link_gbytes_per_second: Annotated[float, Field(gt=0)] = 1.0  # of what was measured
    sizes_mib: Annotated[list[float], Field(default_factory=list)]
    all_gather: list[_Point]
    reduce_scatter: list[_Point]
    all_reduce: list[_Point]
    all_to_all: list[_Point]
    p2p: list[_Point]


class _CollectivesFile(StrictModel):
    families: dict[str, _Family]


@cache
def efficiency(family: str, collective: Collective, ranks: int) -> Efficiency:
    """What a collective of `ranks` ranks reaches: the entry of the largest group not above it."""
    found = _families()[family]
    points: list[_Point] = getattr(found, collective)
    point = ([each for each in points if each.ranks <= ranks] or points[:1])[-1]
    measured = None
    if point.microseconds is not None:
        sizes = tuple(size * MIB for size in found.sizes_mib)
        measured = sizes, tuple(each * MICRO for each in point.microseconds)
    return Efficiency(
        fraction=point.fraction,
        latency_seconds=point.latency_microseconds * MICRO,
        ranks=point.ranks,
        measured=measured,
        measured_bandwidth=found.link_gbytes_per_second * GIGA,
    )


def collective_seconds(
    collective: Collective, num_bytes: float, group: GroupPlacement, cluster: Cluster
) -> float:
    """Seconds of one collective, with all groups of the name at it at once.

    `num_bytes` is the whole tensor of all_gather (the result), reduce_scatter (the input) and
    all_reduce, what each rank sends in all_to_all (with its own share), the message of p2p.
    """
    if group.size == 1:
        return 0.0
    predicted = _seconds(collective, num_bytes, group, cluster)
    return predicted * cluster.calibration.of_link(group.link_class)


def _seconds(
    collective: Collective, num_bytes: float, group: GroupPlacement, cluster: Cluster
) -> float:
    """Seconds of a collective of several ranks, before calibration."""
    n = group.size
    if group.link_class != NETWORK:
        inside = _inside(collective, group, cluster.links[group.link_class])
        return inside.seconds(
            num_bytes,
            _traffic(collective, n),
            _traffic(collective, inside.ranks),
            group.bandwidth_bytes_per_second,
        )
    sent = num_bytes * _traffic(collective, n)
    across = efficiency(cluster.network_efficiency, collective, n)
    nic = group.bandwidth_bytes_per_second * across.fraction
    k = group.ranks_per_island
    latency = across.latency_seconds + _hops_seconds(collective, group, cluster)
    if collective == "p2p" or (k == 1 and collective != "all_to_all"):
        return latency + sent / nic
    within = _within_islands(collective, group, cluster)
    if collective == "all_to_all":
        over_nics, over_links = num_bytes * (n - k) / n, num_bytes * (k - 1) / n
        return latency + max(over_nics / nic, over_links / within)
    return latency + sent / min(nic * k, within)


def _within_islands(collective: Collective, group: GroupPlacement, cluster: Cluster) -> float:
    """Bytes per second that a GPU moves inside the islands of a group over several of them."""
    link = cluster.links.get(group.inside_class)
    if link is None:  # islands of one GPU: nothing is sent inside
        return cluster.gpu.hbm_bandwidth_bytes_per_second
    return link.bandwidth_bytes_per_second * _inside(collective, group, link).fraction


def _inside(collective: Collective, group: GroupPlacement, link: Link) -> Efficiency:
    """What a group reaches inside an island.

    Groups whose ranks lie far apart in a host send between its sockets, all of them at once: over
    PCIe they reach what one group of all GPUs in between does.
    """
    ranks = max(group.size, group.span) if link.name == PCIE else group.size
    return efficiency(link.efficiency, collective, ranks)


def _traffic(collective: Collective, n: int) -> float:
    """Bytes that a rank sends over the bytes of the buffer (nccl-tests, PERFORMANCE.md)."""
    match collective:
        case "p2p":
            return 1.0
        case "all_reduce":
            return 2 * (n - 1) / n
        case _:
            return (n - 1) / n


def _hops_seconds(collective: Collective, group: GroupPlacement, cluster: Cluster) -> float:
    """Latency of the hops of a ring over several islands; of one hop where there is no ring."""
    if collective in ("p2p", "all_to_all"):
        return group.latency_seconds
    link = cluster.links.get(group.inside_class)
    between = group.islands_spanned - 1
    inside = (group.size - 1 - between) * (link.latency_seconds if link else 0.0)
    once = inside + between * group.latency_seconds
    return 2 * once if collective == "all_reduce" else once


def assumed_family(family: str) -> str | None:
    """Why the numbers of a family are assumed; None: they were measured."""
    found = _families()[family]
    return found.source if found.assumed else None


@cache
def _families() -> dict[str, _Family]:
    return load_yaml_model(COLLECTIVES_FILE, _CollectivesFile).families
