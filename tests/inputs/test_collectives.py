"""How long collectives take, beside what was measured and published."""

import pytest

from planner.cluster import Cluster
from planner.collectives import Collective, collective_seconds
from planner.grids import Grids
from planner.placement import GroupPlacement, place
from planner.topology_files import load_topology


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
        measured, rel=0.03
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


@pytest.mark.parametrize(
    ("trays", "seconds"), [(2, 735e-6), (4, 743e-6), (8, 769e-6), (16, 930e-6)]
)
def test_token_dispatch_inside_a_rack_is_near_the_measured_one(trays: int, seconds: float) -> None:
    """NCCL all-to-all on GB200 NVL72 of arXiv 2603.07685, Table 7, as above."""
    num_bytes = 4096 * 8 * 7168 * 2

    assert collective_seconds("all_to_all", num_bytes, *whole("gb200-nvl72", trays)) == (
        pytest.approx(seconds, rel=0.1)
    )


@pytest.mark.parametrize(("racks", "gbytes_per_second"), [(1, 835), (2, 793)])
def test_reducing_over_racks_is_near_the_measured_one(racks: int, gbytes_per_second: float) -> None:
    """Bus bandwidth at 8 GiB on GB200 NVL72, coreweave/nccl-tests README @cb86553."""
    ranks = 72 * racks
    measured = 2 * (ranks - 1) / ranks * 2**33 / (gbytes_per_second * 1e9)

    assert collective_seconds("all_reduce", 2**33, *whole("gb200-nvl72", 18 * racks)) == (
        pytest.approx(measured, rel=0.05)
    )


@pytest.mark.parametrize(
    ("collective", "used", "fraction"),
    [
        ("all_gather", 2, 0.687),
        ("all_gather", 8, 0.450),
        ("reduce_scatter", 8, 0.369),
        ("all_to_all", 4, 0.638),
    ],
)
def test_collectives_over_pcie_reach_the_measured_part_of_30_gbytes(
    collective: Collective, used: int, fraction: float
) -> None:
    """MooreThreads/SimuMax configs/system/a100_pcie.json @4dcaae5."""
    cluster = load_topology("a100-pcie-8x", 1, gpus_per_node=used)
    group = place(cluster, Grids(world_size=used))["dp"]
    measured = (used - 1) / used * 2**32 / (fraction * 30e9)

    assert collective_seconds(collective, 2**32, group, cluster) == pytest.approx(
        measured, rel=0.01
    )


def test_far_gpus_of_a_pcie_host_are_slower_than_neighbours() -> None:
    """MooreThreads/SimuMax has 3.9 to 7.65 GB/s for groups of 2 and 4 that cross sockets."""
    cluster = load_topology("a100-pcie-8x", 1)
    near, far = (
        place(cluster, Grids(world_size=8, tp=tp))[name] for tp, name in ((2, "tp"), (4, "dp"))
    )
    seconds = [collective_seconds("all_gather", 2**30, each, cluster) for each in (near, far)]

    assert (near.size, far.size) == (2, 2)
    assert seconds[1] / seconds[0] == pytest.approx(0.644 / 0.422, rel=0.01)


def test_gathering_over_erdma_takes_twenty_times_as_long_as_over_infiniband() -> None:
    """160 Gbit/s of a host against 3200: the reason why such hosts do not share a model."""
    slow = collective_seconds("all_to_all", 2**30, *whole("h20-8x-erdma", 4))
    fast = collective_seconds("all_to_all", 2**30, *whole("h20-8x-ib", 4))

    assert slow / fast == pytest.approx(20, rel=0.1)
