"""Where the groups of a layout lie, and that no collective beats the links there."""

from collections import Counter
from dataclasses import replace
from math import lcm

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import LINK_CLASSES, NETWORK, NVLINK, PCIE, SPINE, Cluster
from planner.collectives import Collective, collective_seconds
from planner.grids import GROUP_AXES, Grids
from planner.placement import GroupPlacement, place
from planner.topology_files import known_topologies, load_topology

COLLECTIVES: list[Collective] = [
    "all_gather",
    "reduce_scatter",
    "all_reduce",
    "all_to_all",
    "p2p",
]
NAMES = st.sampled_from(sorted(GROUP_AXES))
BASE = load_topology("h100-nvl-8x", 1)
NIC = 50e9


def hosts(
    num_nodes: int,
    gpus: int = 8,
    *,
    domain: int | None = None,
    nodes_per_leaf: int | None = None,
    oversubscription: float = 1.0,
    nics: tuple[float, ...] = (NIC,) * 8,
) -> Cluster:
    """Hosts of any shape: NVLink domains of `domain` GPUs, of a whole host when not given."""
    return replace(
        BASE,
        num_nodes=num_nodes,
        gpus_per_node=gpus,
        host_gpus=gpus,
        host_nvlink_domain_size=domain or gpus,
        nodes_per_leaf=nodes_per_leaf,
        oversubscription=oversubscription,
        host_nic_bandwidths_bytes_per_second=nics,
    )


def grids_on(draw: st.DrawFn, gpus: int) -> Grids:
    """Any layout on whole hosts, also with sizes that do not divide a host or a rack."""
    size = st.sampled_from([1, 2, 3, 4, 6, 8, 16])
    tp, cp, pp, ep, etp = (draw(size) for _ in range(5))
    world_size = lcm(gpus, pp * lcm(tp * cp, etp * ep)) * draw(st.integers(1, 3))
    return Grids(world_size=world_size, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)


@st.composite
def odd_jobs(draw: st.DrawFn) -> tuple[Cluster, Grids]:
    """A layout on hosts of any shape: racks that are not filled, pairs, leaves across racks."""
    gpus = draw(st.sampled_from([1, 2, 4, 6, 8]))
    inside = [size for size in range(1, gpus + 1) if gpus % size == 0]
    domain = draw(st.sampled_from([*inside, *(gpus * hosts for hosts in (2, 3, 4, 9, 18))]))
    grids = grids_on(draw, gpus)
    cluster = hosts(
        grids.world_size // gpus,
        gpus,
        domain=domain,
        nodes_per_leaf=draw(st.sampled_from([None, 1, 2, 3, 4, 12])),
        oversubscription=draw(st.sampled_from([1.0, 2.0])),
        nics=(NIC,) * draw(st.integers(1, 10)),
    )
    return cluster, grids


@st.composite
def shipped_jobs(draw: st.DrawFn) -> tuple[Cluster, Grids]:
    """A layout on whole hosts that come with the planner."""
    name = draw(st.sampled_from(known_topologies()))
    gpus = load_topology(name, 1).gpus_per_node
    grids = grids_on(draw, gpus)
    return load_topology(name, grids.world_size // gpus), grids


def where(cluster: Cluster, rank: int) -> tuple[int, int, int]:
    """Host, NVLink domain and leaf of a rank, told from the host and the place in it."""
    host, gpu = divmod(rank, cluster.gpus_per_node)
    size = cluster.nvlink_domain_size
    if size <= cluster.gpus_per_node:
        domain = host * (cluster.gpus_per_node // size) + gpu // size
    else:
        domain = host // (size // cluster.gpus_per_node)
    return host, domain, host // (cluster.nodes_per_leaf or cluster.num_nodes)


def between(cluster: Cluster, one: int, other: int) -> str:
    """The class of link on which two ranks meet."""
    here, there = where(cluster, one), where(cluster, other)
    if here[1] == there[1]:
        return NVLINK
    if here[0] == there[0]:
        return PCIE
    return NETWORK if here[2] == there[2] else SPINE


def islands(cluster: Cluster, group: tuple[int, ...]) -> Counter[int]:
    """How many ranks of a group each host holds; where a domain has several hosts: each domain."""
    of_domains = cluster.nvlink_domain_size > cluster.gpus_per_node
    return Counter(where(cluster, rank)[of_domains] for rank in group)


@settings(max_examples=200)
@given(odd_jobs(), NAMES)
def test_a_placement_is_the_worst_of_all_groups(job: tuple[Cluster, Grids], name: str) -> None:
    """Against every group, rank by rank."""
    cluster, grids = job
    groups = grids.groups(name)
    found = place(cluster, grids)[name]
    pairs = [between(cluster, group[0], rank) for group in groups for rank in group]
    slowest = max(pairs, key=LINK_CLASSES.index)
    lying = [islands(cluster, group) for group in groups]

    assert found.size == grids.size(name)
    assert found.link_class == (NETWORK if slowest == SPINE else slowest)
    assert found.islands_spanned == max(len(counts) for counts in lying)
    assert found.ranks_per_island == min(min(counts.values()) for counts in lying)
    if found.size > 1:
        assert found.bandwidth_bytes_per_second == (
            cluster.links[slowest].bandwidth_bytes_per_second
        )


@settings(max_examples=200)
@given(odd_jobs(), NAMES)
def test_the_inside_of_a_group_is_never_told_faster_than_it_is(
    job: tuple[Cluster, Grids], name: str
) -> None:
    cluster, grids = job
    inside = {
        between(cluster, one, other)
        for group in grids.groups(name)
        for one in group
        for other in group
    } & {NVLINK, PCIE}

    assert place(cluster, grids)[name].inside_class == PCIE or inside <= {NVLINK}


@given(odd_jobs(), NAMES, st.sampled_from(COLLECTIVES))
def test_no_group_is_slower_than_the_placement(
    job: tuple[Cluster, Grids], name: str, collective: Collective
) -> None:
    """Each group placed alone takes at most as long as the placement of all."""
    cluster, grids = job
    found = place(cluster, grids)[name]
    told = collective_seconds(collective, 2**26, found, cluster)
    for group in grids.groups(name):
        counts = islands(cluster, group)
        pairs = [between(cluster, one, other) for one in group[:1] for other in group]
        slowest = max(pairs, key=LINK_CLASSES.index)
        link = cluster.links.get(slowest)
        alone = GroupPlacement(
            size=len(group),
            islands_spanned=len(counts),
            ranks_per_island=min(counts.values()),
            span=found.span,
            link_class=NETWORK if slowest == SPINE else slowest,
            inside_class=found.inside_class,
            bandwidth_bytes_per_second=link.bandwidth_bytes_per_second if link else 1.0,
            latency_seconds=link.latency_seconds if link else 0.0,
        )
        if found.link_class == alone.link_class:
            assert collective_seconds(collective, 2**26, alone, cluster) <= told * (1 + 1e-9)


@given(odd_jobs())
def test_the_links_of_a_cluster_are_those_that_its_ranks_meet(job: tuple[Cluster, Grids]) -> None:
    """The graph holds a host of each relation: against all pairs of ranks with the first hosts."""
    cluster, _ = job
    firsts = range(min(cluster.num_gpus, 3 * max(cluster.island_size, cluster.leaf_size)))
    some = {
        between(cluster, one, other)
        for one in firsts[:: cluster.gpus_per_node]
        for other in range(cluster.num_gpus)
        if one != other
    }

    assert set(cluster.links) == some


@given(odd_jobs())
def test_graphs_do_not_grow_with_the_job(job: tuple[Cluster, Grids]) -> None:
    cluster, _ = job
    gpus = [node for node in cluster.graph() if node[0] == "gpu"]

    assert len(gpus) <= 5 * cluster.gpus_per_node


def test_expert_groups_of_8_stay_inside_a_host_and_pipelines_cross() -> None:
    placements = place(load_topology("h100-8x-ib", 2), Grids(world_size=16, tp=2, pp=2, ep=8))

    assert placements["tp"].link_class == placements["etp_ep"].link_class == NVLINK
    assert placements["pp"] == GroupPlacement(
        size=2,
        islands_spanned=2,
        ranks_per_island=1,
        span=8,
        link_class=NETWORK,
        inside_class=NVLINK,
        bandwidth_bytes_per_second=50e9,
        latency_seconds=14e-6,
    )


def test_experts_of_a_rack_stay_in_its_nvlink_and_others_leave_it() -> None:
    """72 GPUs on 18 trays: ep 36 fits twice, ep 64 straddles racks."""
    two_racks = load_topology("gb200-nvl72", 36)
    inside = place(two_racks, Grids(world_size=144, ep=36))["ep"]
    straddling = place(load_topology("gb200-nvl72", 32), Grids(world_size=128, ep=64))["ep"]
    one_rack = place(load_topology("gb200-nvl72", 16), Grids(world_size=64, ep=64))["ep"]

    assert (inside.link_class, inside.islands_spanned) == (NVLINK, 1)
    assert (one_rack.link_class, one_rack.islands_spanned) == (NVLINK, 1)
    assert (straddling.link_class, straddling.islands_spanned) == (NETWORK, 2)
    assert straddling.ranks_per_island == 8  # ranks 64 to 71 are in the first rack
    assert straddling.bandwidth_bytes_per_second == 50e9


def test_a_pair_is_on_its_bridge_and_a_host_on_pcie() -> None:
    placements = place(load_topology("h100-nvl-8x", 2), Grids(world_size=16, tp=2, ep=8))

    assert placements["tp"].link_class == NVLINK
    assert placements["tp"].bandwidth_bytes_per_second == 300e9
    assert placements["ep"].link_class == PCIE
    assert placements["ep"].bandwidth_bytes_per_second == 64e9
    assert placements["dp"].inside_class == PCIE


def test_groups_below_one_leaf_see_all_of_the_network_and_others_what_is_left() -> None:
    """4 hosts below a leaf, 2:1: ep 32 fills a leaf, dp crosses the spine."""
    cluster = hosts(8, nodes_per_leaf=4, oversubscription=2.0)
    placements = place(cluster, Grids(world_size=64, pp=2, ep=32))
    across = place(cluster, Grids(world_size=64, ep=64))["ep"]

    assert placements["ep"].bandwidth_bytes_per_second == NIC
    assert placements["pp"].bandwidth_bytes_per_second == NIC / 2
    assert across.bandwidth_bytes_per_second == NIC / 2
    graph = cluster.graph()
    assert graph.edges[("leaf", 0, 0), ("spine", 0, 0)]["bandwidth_bytes_per_second"] == (
        4 * 8 * NIC / 2
    )


@given(st.integers(1, 16), st.lists(st.sampled_from([100e9, 50e9, 25e9]), min_size=1, max_size=20))
def test_the_narrowest_share_of_the_nics_is_every_gpus_share(gpus: int, nics: list[float]) -> None:
    """Against dealing NICs to GPUs one by one: neighbours share, or take turns."""
    cluster = hosts(2, gpus, nics=tuple(nics))
    shares = [0.0] * gpus
    if len(nics) >= gpus:
        for number, nic in enumerate(nics):
            shares[number * gpus // len(nics)] += min(nic, 64e9)
    else:
        users = [number * len(nics) // gpus for number in range(gpus)]
        shares = [nics[nic] / users.count(nic) for nic in users]

    assert cluster.links[NETWORK].bandwidth_bytes_per_second == pytest.approx(
        min(min(share, 64e9 * len(nics)) for share in shares)
    )


def test_the_largest_jobs_cost_no_more_than_their_groups() -> None:
    placements = place(
        load_topology("h100-8x-ib", 2048), Grids(world_size=16384, tp=8, pp=16, ep=64)
    )

    assert placements["edp"].size == 16
    assert (placements["dp"].islands_spanned, placements["dp"].ranks_per_island) == (128, 1)
    assert (placements["ep"].islands_spanned, placements["ep"].ranks_per_island) == (8, 8)


@settings(max_examples=300)
@given(shipped_jobs(), NAMES, st.sampled_from(COLLECTIVES), st.data())
def test_time_grows_with_bytes_and_never_beats_the_link(
    job: tuple[Cluster, Grids], name: str, collective: Collective, data: st.DataObject
) -> None:
    cluster, grids = job
    group = place(cluster, grids)[name]
    few, many = sorted(data.draw(st.tuples(*[st.integers(0, 2**34)] * 2)))
    seconds = [collective_seconds(collective, size, group, cluster) for size in (few, many)]

    assert 0 <= seconds[0] <= seconds[1]
    if group.size > 1:
        leaving = many * (group.size - group.ranks_per_island) / group.size
        assert seconds[1] >= leaving / group.bandwidth_bytes_per_second / group.ranks_per_island
