"""Where the groups of a layout lie, and how long their collectives take there."""

from collections import Counter
from math import lcm

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import NETWORK, NVLINK, Cluster
from planner.collectives import Collective, collective_seconds
from planner.grids import GROUP_AXES, Grids
from planner.placement import GroupPlacement, link_class, place
from planner.topology_files import known_topologies, load_topology

COLLECTIVES: list[Collective] = [
    "all_gather",
    "reduce_scatter",
    "all_reduce",
    "all_to_all",
    "p2p",
]


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Cluster, Grids]:
    """Any layout on whole hosts of 8, also with sizes that do not divide a host."""
    size = st.sampled_from([1, 2, 3, 4, 6, 8])
    tp, cp, pp, ep, etp = (draw(size) for _ in range(5))
    world_size = lcm(8, pp * lcm(tp * cp, etp * ep)) * draw(st.integers(1, 2))
    cluster = load_topology(draw(st.sampled_from(known_topologies())), world_size // 8)
    return cluster, Grids(world_size=world_size, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)


@given(jobs(), st.sampled_from(sorted(GROUP_AXES)))
def test_a_placement_is_that_of_the_worst_group(job: tuple[Cluster, Grids], name: str) -> None:
    """Against all groups, one by one."""
    cluster, grids = job
    nodes = [Counter(rank // 8 for rank in group) for group in grids.groups(name)]
    spans = max(len(counts) for counts in nodes)
    found = place(cluster, grids)[name]

    assert found.size == grids.size(name)
    assert found.nodes_spanned == spans
    assert found.ranks_per_node == min(
        min(counts.values()) for counts in nodes if len(counts) == spans
    )
    assert found.link_class == (NVLINK if spans == 1 else NETWORK)


@given(jobs(), st.sampled_from(sorted(GROUP_AXES)))
def test_the_class_of_a_link_is_the_slowest_on_the_ways_through_the_graph(
    job: tuple[Cluster, Grids], name: str
) -> None:
    """Against networkx's own paths between the GPUs of a group on at most two hosts."""
    cluster, grids = job
    graph = cluster.graph()
    group = grids.group_of(name, 0)
    nodes = [("gpu", min(rank // 8, 1), rank % 8) for rank in group]
    kinds = {
        graph.edges[edge]["kind"]
        for node in nodes[1:]
        for edge in networkx.utils.pairwise(
            networkx.shortest_path(graph, nodes[0], node, weight="latency_seconds")
        )
    }

    assert link_class(cluster, group) == (NETWORK if NETWORK in kinds else NVLINK)


def test_expert_groups_of_8_stay_inside_a_host_and_pipelines_cross() -> None:
    placements = place(load_topology("h100-8x-ib", 2), Grids(world_size=16, tp=2, pp=2, ep=8))

    assert placements["tp"].link_class == placements["etp_ep"].link_class == NVLINK
    assert placements["pp"] == GroupPlacement(
        size=2,
        nodes_spanned=2,
        ranks_per_node=1,
        link_class=NETWORK,
        bandwidth_bytes_per_second=50e9,
        latency_seconds=14e-6,
    )


def test_the_largest_jobs_cost_no_more_than_their_groups() -> None:
    placements = place(
        load_topology("h100-8x-ib", 2048), Grids(world_size=16384, tp=8, pp=16, ep=64)
    )

    assert placements["edp"].size == 16
    assert (placements["dp"].nodes_spanned, placements["dp"].ranks_per_node) == (128, 1)
    assert (placements["ep"].nodes_spanned, placements["ep"].ranks_per_node) == (8, 8)


@settings(max_examples=300)
@given(jobs(), st.sampled_from(sorted(GROUP_AXES)), st.sampled_from(COLLECTIVES), st.data())
def test_time_grows_with_bytes_and_never_beats_the_link(
    job: tuple[Cluster, Grids], name: str, collective: Collective, data: st.DataObject
) -> None:
    cluster, grids = job
    group = place(cluster, grids)[name]
    few, many = sorted(data.draw(st.tuples(*[st.integers(0, 2**34)] * 2)))
    seconds = [collective_seconds(collective, size, group, cluster) for size in (few, many)]

    assert 0 <= seconds[0] <= seconds[1]
    if group.size > 1:
        leaving = many * (group.size - group.ranks_per_node) / group.size
        assert seconds[1] >= leaving / group.bandwidth_bytes_per_second / group.ranks_per_node


def whole(topology: str, num_nodes: int) -> tuple[GroupPlacement, Cluster]:
    """One group of all ranks."""
    cluster = load_topology(topology, num_nodes)
    return place(cluster, Grids(world_size=cluster.num_gpus))["dp"], cluster


@pytest.mark.parametrize(
    ("collective", "size", "gbytes_per_second"),
    [
        ("all_gather", 2**29, 335.19),
        ("reduce_scatter", 2**29, 335.7),
        ("all_reduce", 2**29, 445.05),
        ("all_to_all", 2**29, 315.19),
        ("all_gather", 2**25, 234.02),
        ("all_to_all", 2**25, 235.07),
    ],
)
def test_collectives_in_a_host_of_8_h100_are_near_the_measured_ones(
    collective: Collective, size: int, gbytes_per_second: float
) -> None:
    """Bus bandwidth of ai-dynamo/aiconfigurator, nccl_perf.parquet @095f58a, NCCL 2.29.2."""
    factor = 2 if collective == "all_reduce" else 1
    measured = factor * 7 / 8 * size / (gbytes_per_second * 1e9)

    assert collective_seconds(collective, size, *whole("h100-8x-ib", 1)) == pytest.approx(
        measured, rel=0.16
    )


@pytest.mark.parametrize(("num_nodes", "seconds"), [(2, 5.774e-3), (4, 8.059e-3), (8, 9.164e-3)])
def test_token_dispatch_between_h100_hosts_is_near_the_measured_one(
    num_nodes: int, seconds: float
) -> None:
    """NCCL all-to-all of arXiv 2603.07685, Table 7: 4096 tokens, top 8, hidden 7168, bf16."""
    num_bytes = 4096 * 8 * 7168 * 2

    assert collective_seconds("all_to_all", num_bytes, *whole("h100-8x-ib", num_nodes)) == (
        pytest.approx(seconds, rel=0.1)
    )


def test_gathering_over_erdma_takes_twenty_times_as_long_as_over_infiniband() -> None:
    """160 Gbit/s of a host against 3200: the reason why such hosts do not share a model."""
    slow = collective_seconds("all_to_all", 2**30, *whole("h20-8x-erdma", 4))
    fast = collective_seconds("all_to_all", 2**30, *whole("h20-8x-ib", 4))

    assert slow / fast == pytest.approx(20, rel=0.1)
