"""The topologies that come with the planner, and files of users."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from planner.cluster import NETWORK, NVLINK, Cluster
from planner.collectives import COLLECTIVES_FILE
from planner.errors import UsageError
from planner.topology_files import (
    DEFAULT_TOPOLOGY,
    TOPOLOGIES_FOLDER,
    Efficiency,
    known_topologies,
    load_topology,
)

CLUSTERS = [load_topology(name, 2) for name in known_topologies()]


def by_name(cluster: Cluster) -> str:
    return cluster.name


def test_the_default_is_hosts_of_8_h100() -> None:
    cluster = load_topology(DEFAULT_TOPOLOGY, 2)

    assert (cluster.num_gpus, cluster.gpus_per_node) == (16, 8)
    assert cluster.gpu.name == "H100-SXM5-80GB"
    assert cluster.gpu.memory_usable_bytes == 81089 * 2**20
    assert cluster.gpu.bf16_flops_per_second == 989e12
    assert cluster.gpu.compute_capability == (9, 0)
    assert cluster.host_memory_bytes == 2 * 2**40
    assert cluster.assumptions == ()


@pytest.mark.parametrize(
    ("name", "nvlink", "network"),
    [
        ("h100-8x-ib", 450e9, 50e9),
        ("h200-8x-ib", 450e9, 50e9),
        ("h800-8x-ib", 200e9, 50e9),
        ("a800-8x-ib", 200e9, 25e9),
        ("a800-8x-roce", 200e9, 12.5e9),
        # 160 Gbit/s for all 8 GPUs of a host
        ("a800-8x-erdma", 200e9, 2.5e9),
        ("h20-8x-erdma", 450e9, 2.5e9),
    ],
)
def test_bandwidths_are_of_one_gpu_and_one_direction(
    name: str, nvlink: float, network: float
) -> None:
    links = load_topology(name, 2).links

    assert links[NVLINK].bandwidth_bytes_per_second == nvlink
    assert links[NETWORK].bandwidth_bytes_per_second == network


@pytest.mark.parametrize("cluster", CLUSTERS, ids=by_name)
def test_the_graph_holds_gpus_switches_and_nics_of_two_hosts(cluster: Cluster) -> None:
    graph = cluster.graph()
    kinds = [kind for kind, _, _ in graph]

    assert kinds.count("gpu") == 16
    assert kinds.count("nvswitch") == 2
    assert kinds.count("nic") == 2 * cluster.nics_per_node
    assert kinds.count("leaf") == cluster.nics_per_node
    assert all(
        {"kind", "bandwidth_bytes_per_second", "latency_seconds"} == set(edge)
        for _, _, edge in graph.edges(data=True)
    )


def test_the_graph_does_not_grow_with_the_job() -> None:
    assert len(load_topology("h100-8x-ib", 2048).graph()) == len(CLUSTERS[0].graph()) + 18


def test_one_host_has_no_network() -> None:
    assert list(load_topology("h100-8x-ib", 1).links) == [NVLINK]


def test_a_part_of_a_host_has_its_part_of_the_nics() -> None:
    assert load_topology("h100-8x-ib", 2, gpus_per_node=2).nics_per_node == 2
    erdma = load_topology("h20-8x-erdma", 2, gpus_per_node=4)

    assert erdma.nics_per_node == 1
    assert erdma.links[NETWORK].bandwidth_bytes_per_second == 2.5e9
    with pytest.raises(UsageError, match="has 8 GPUs, not 9"):
        load_topology("h100-8x-ib", 1, gpus_per_node=9)


def test_assumed_numbers_are_listed_in_base_units() -> None:
    assumptions = {item.id: item for item in load_topology("h20-8x-erdma", 2).assumptions}

    assert set(assumptions) == {
        "cluster.network.latency_microseconds",
        "cluster.network.efficiency",
    }
    assert assumptions["cluster.network.latency_microseconds"].value == pytest.approx(50e-6)
    assert assumptions["cluster.network.latency_microseconds"].unit == "seconds"
    assert all(item.source for item in assumptions.values())


@pytest.mark.parametrize("name", known_topologies())
def test_every_topology_is_in_the_readme(name: str) -> None:
    assert f"| `{name}`" in (TOPOLOGIES_FOLDER / "README.md").read_text()


def test_every_efficiency_that_a_file_may_name_exists() -> None:
    families = yaml.safe_load(COLLECTIVES_FILE.read_text())["families"]

    assert set(get_args(Efficiency)) == set(families)


def edited(tmp_path: Path, *keys: str, value: Any) -> str:
    """A copy of the default topology with one value replaced; `...` removes its key."""
    content = yaml.safe_load((TOPOLOGIES_FOLDER / "h100-8x-ib.yaml").read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    if value is ...:
        del place[keys[-1]]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_gpu_of_ones_own_is_written_out(tmp_path: Path) -> None:
    number = {"value": 100, "source": "my own measurement"}
    gpu = {
        "name": "X1",
        "memory_usable_mib": number,
        "bf16_teraflops_per_second": number,
        "hbm_gbytes_per_second": number,
        "pcie_gbytes_per_second": number,
        "compute_capability": "12.0",
    }
    cluster = load_topology(edited(tmp_path, "gpu", value=gpu), 1)

    assert (cluster.name, cluster.gpu.name) == ("mine", "X1")
    assert cluster.gpu.memory_usable_bytes == 100 * 2**20
    assert cluster.gpu.compute_capability == (12, 0)


@pytest.mark.parametrize(
    ("keys", "value", "message_id", "words"),
    [
        (["nvlnk"], 1, "file.unknown_key", ["nvlnk", "nvlink"]),
        (["network", "nic_per_node"], 8, "file.unknown_key", ["network", "nics_per_node"]),
        (["gpu"], "H100", "file.bad_value", ["gpu", "H100-SXM5-80GB"]),
        (["gpu"], 100, "file.bad_value", ["gpu", "100"]),
        (["gpus_per_node"], 0, "file.bad_value", ["gpus_per_node"]),
        (["gpus_per_node"], "8", "file.bad_value", ["gpus_per_node", "'8'"]),
        (["gpus_per_node"], True, "file.bad_value", ["gpus_per_node"]),
        (["network", "nics_per_node"], 3, "file.bad_value", ["nics_per_node", "divide"]),
        (["nvlink", "domain_size"], 3, "file.bad_value", ["domain_size", "divide"]),
        (["nvlink", "gbytes_per_second", "value"], -1, "file.bad_value", ["gbytes_per_second"]),
        (["nvlink", "gbytes_per_second", "value"], float("inf"), "file.bad_value", ["inf"]),
        (["nvlink", "gbytes_per_second", "source"], "", "file.bad_value", ["source"]),
        (["nvlink", "gbytes_per_second", "source"], ..., "file.missing_key", ["source"]),
        (["nvlink", "gbytes_per_second"], 450, "file.bad_value", ["gbytes_per_second", "450"]),
        (["network", "efficiency"], "fast", "file.bad_value", ["efficiency", "infiniband"]),
        (["description"], ..., "file.missing_key", ["description"]),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_is_near(
    tmp_path: Path, keys: list[str], value: Any, message_id: str, words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        load_topology(edited(tmp_path, *keys, value=value), 2)

    told = f"{caught.value.message} {caught.value.fix}"
    assert caught.value.message_id == message_id
    assert [word for word in words if word not in told] == []


def test_an_unknown_topology_is_told_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        load_topology("h100-8x", 2)

    assert caught.value.message_id == "topology.unknown"
    assert "h100-8x-ib" in caught.value.fix
