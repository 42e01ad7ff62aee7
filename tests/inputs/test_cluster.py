"""The topologies that come with the planner, and files of users."""

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import networkx
import pytest
import yaml

from planner.cluster import LINK_CLASSES, NETWORK, NVLINK, PCIE, SPINE, Cluster
from planner.cluster_graph import GraphNode, neighbours, ways_from
from planner.collectives import COLLECTIVES_FILE
from planner.errors import UsageError
from planner.topology_files import (
    DEFAULT_TOPOLOGY,
    TOPOLOGIES_FOLDER,
    aliases,
    known_topologies,
    load_topology,
)
from planner.topology_schema import NetworkFamily, NvlinkFamily, PcieFamily, known_gpus

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
    ("name", "inside", "network"),
    [
        ("h100-8x-ib", 450e9, 50e9),
        ("h200-8x-ib", 450e9, 50e9),
        ("h800-8x-ib", 200e9, 50e9),
        ("a100-8x-ib", 300e9, 25e9),
        ("a800-8x-ib", 200e9, 25e9),
        ("a800-8x-4nic-ib", 200e9, 12.5e9),
        ("a800-8x-roce", 200e9, 12.5e9),
        # 160 Gbit/s for all 8 GPUs of a host
        ("a800-8x-erdma", 200e9, 2.5e9),
        ("h20-8x-erdma", 450e9, 2.5e9),
        ("b200-8x-ib", 900e9, 50e9),
        ("b300-8x-ib", 900e9, 100e9),
        ("gb200-nvl72", 900e9, 50e9),
        ("gb300-nvl72", 900e9, 100e9),
        ("aws-p4d", 300e9, 6.25e9),
        ("aws-p4de", 300e9, 6.25e9),
        ("aws-p5", 450e9, 50e9),
        ("aws-p5e", 450e9, 50e9),
        ("aws-p5en", 450e9, 50e9),
        ("aws-p6-b200", 900e9, 50e9),
        ("aws-p6-b300", 900e9, 100e9),
        ("aws-p6e-gb200", 900e9, 100e9),
        ("azure-nd-a100-v4-40gb", 300e9, 25e9),
        ("azure-nd-h100-v5", 450e9, 50e9),
        ("azure-nd-gb300-v6", 900e9, 100e9),
        ("gcp-a3-high", 450e9, 12.5e9),
        ("gcp-a3-mega", 450e9, 25e9),
        ("gcp-a3-ultra", 450e9, 50e9),
        ("gcp-a4", 900e9, 50e9),
        ("aliyun-ebmgn7", 300e9, 0.46875e9),
        ("aliyun-ebmgn7e", 300e9, 1e9),
        ("aliyun-ebmgn8is", 32e9, 2.5e9),
        ("aliyun-ebmgn8ia", 32e9, 5e9),
        ("l40s-8x-pcie", 32e9, 12.5e9),
        ("rtx4090-8x-pcie", 32e9, 0.390625e9),
        ("rtx3090-4x-pcie", 32e9, 0.3125e9),
    ],
)
def test_bandwidths_are_of_one_gpu_and_one_direction(
    name: str, inside: float, network: float
) -> None:
    links = load_topology(name, 36).links  # more hosts than a rack has

    assert next(iter(links.values())).bandwidth_bytes_per_second == inside
    assert links[NETWORK].bandwidth_bytes_per_second == network


@pytest.mark.parametrize("cluster", CLUSTERS, ids=by_name)
def test_the_graph_holds_gpus_switches_and_nics_of_two_hosts(cluster: Cluster) -> None:
    graph = cluster.graph()
    kinds = [kind for kind, _, _ in graph]
    domains = cluster.num_gpus / cluster.nvlink_domain_size

    assert kinds.count("gpu") == 2 * cluster.gpus_per_node
    assert kinds.count("nvswitch") == (cluster.nvlink_domain_size > 1) * max(1, domains)
    assert kinds.count("bridge") == 2 * (PCIE in cluster.links)
    assert kinds.count("nic") == 2 * cluster.nics_per_node
    assert kinds.count("leaf") == 1
    assert all(
        {"kind", "bandwidth_bytes_per_second", "latency_seconds"} == set(edge)
        for _, _, edge in graph.edges(data=True)
    )


@pytest.mark.parametrize("cluster", CLUSTERS, ids=by_name)
def test_ways_cross_the_links_that_networkx_finds(cluster: Cluster) -> None:
    start, graph = ("gpu", 0, 0), cluster.graph()

    def cost(one: GraphNode, _: GraphNode, edge: dict[str, Any]) -> int | None:
        through_another_gpu = one[0] == "gpu" and one != start
        return None if through_another_gpu else 1000 ** LINK_CLASSES.index(edge["kind"])

    paths = networkx.single_source_dijkstra_path(graph, start, weight=cost)
    crossed = {
        end: [(graph.edges[each]["kind"], graph.edges[each]["latency_seconds"]) for each in edges]
        for end, path in paths.items()
        for edges in [list(pairwise(path))]
    }
    found = {
        end: [(edge.kind, edge.latency_seconds) for edge in way]
        for end, way in ways_from(neighbours(cluster), start).items()
    }

    assert found == crossed


def test_the_graph_does_not_grow_with_the_job() -> None:
    few, many = (load_topology("h100-8x-ib", nodes).graph() for nodes in (2, 2048))
    assert len(few) == len(many)


def test_one_host_has_no_network() -> None:
    assert list(load_topology("h100-8x-ib", 1).links) == [NVLINK]


def test_a_part_of_a_host_has_its_part_of_the_nics() -> None:
    assert load_topology("h100-8x-ib", 2, gpus_per_node=2).nics_per_node == 2
    erdma = load_topology("h20-8x-erdma", 2, gpus_per_node=4)

    assert erdma.nics_per_node == 1
    assert erdma.links[NETWORK].bandwidth_bytes_per_second == 2.5e9
    with pytest.raises(UsageError, match="has 8 GPUs, not 9"):
        load_topology("h100-8x-ib", 1, gpus_per_node=9)


@pytest.mark.parametrize(
    ("name", "used", "domain"),
    [
        ("h100-8x-ib", 2, 2),
        ("h100-8x-ib", 6, 6),
        ("gb200-nvl72", 2, 36),
        ("h100-nvl-8x", 8, 2),
        ("h100-nvl-8x", 3, 1),  # a pair and a single one: equal domains are single GPUs
        ("l40s-8x-pcie", 4, 1),
    ],
)
def test_the_domain_of_a_part_of_a_host(name: str, used: int, domain: int) -> None:
    assert load_topology(name, 4, gpus_per_node=used).nvlink_domain_size == domain


def test_assumed_numbers_are_listed_in_base_units() -> None:
    assumptions = {item.id: item for item in load_topology("h20-8x-erdma", 2).assumptions}

    assert set(assumptions) == {
        "cluster.network.latency_microseconds",
        "cluster.network.efficiency",
    }
    assert assumptions["cluster.network.latency_microseconds"].value == pytest.approx(50e-6)
    assert assumptions["cluster.network.latency_microseconds"].unit == "seconds"
    assert all(item.source for item in assumptions.values())


def test_names_of_clouds_are_known_in_any_case() -> None:
    assert load_topology("P5.48xlarge", 1).name == "aws-p5"
    assert {load_topology(name, 1).name for name in aliases()} == set(aliases().values())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("MI300X-8x", "AMD"),
        ("Ascend910B2", "Ascend"),
        ("PPU-ZW810E", "nobody publishes"),
        ("ml.gu7xf.8xlarge-gu108", "Lingjun"),
        ("ecs.ebmgn7vx.32xlarge", "nobody publishes"),
    ],
)
def test_what_cannot_be_planned_for_is_refused_by_name(name: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_topology(name, 2)

    assert caught.value.message_id == "topology.refused"
    assert name in caught.value.message and why in caught.value.message


def test_one_topology_is_loaded_without_reading_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = Path.open

    def spy(self: Path, *args: Any, **options: Any) -> Any:
        opened.append(self.name)
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", spy)
    load_topology("aws-p5en", 2)

    assert {name for name in opened if name not in ("gpus.yaml", "collectives.yaml")} == {
        f"{name}.yaml" for name in ("aws-p5en", "aws-p5e", "aws-p5", "h100-8x-ib")
    }


@pytest.mark.parametrize("name", known_gpus())
def test_every_gpu_of_the_catalogue_is_sound(name: str) -> None:
    gpu = known_gpus()[name]

    assert gpu.printed_as
    if gpu.memory_smi_mib:
        assert 400 <= gpu.memory_smi_mib.value - gpu.memory_usable_mib.value <= 730


@pytest.mark.parametrize("name", known_topologies())
def test_every_topology_is_in_the_readme(name: str) -> None:
    assert f"| `{name}`" in (TOPOLOGIES_FOLDER / "README.md").read_text()


def test_every_efficiency_that_a_file_may_name_exists() -> None:
    families = yaml.safe_load(COLLECTIVES_FILE.read_text())["families"]

    named = [get_args(names) for names in (NvlinkFamily, PcieFamily, NetworkFamily)]
    assert sorted(name for names in named for name in names) == sorted(families)


def edited(tmp_path: Path, *keys: str, value: Any) -> str:
    """A copy of the default topology with one value replaced or added; `...` removes its key."""
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


NUMBER = {"value": 2.0, "source": "mine"}


def test_a_file_that_is_like_another_says_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "slice.yaml"
    path.write_text("like: gb200-nvl72\nnvlink: {domain_size: 64}\n")
    mine, rack = load_topology(str(path), 40), load_topology("gb200-nvl72", 40)

    assert (mine.nvlink_domain_size, rack.nvlink_domain_size) == (64, 72)
    assert mine.links == rack.links


def test_different_nics_and_leaves_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mixed.yaml"
    nics = [
        {"count": count, "gbits_per_second_per_nic": {"value": speed, "source": "mine"}}
        for count, speed in ((4, 400.0), (2, 200.0))
    ]
    network = {
        "nics_per_node": None,
        "gbits_per_second_per_nic": None,
        "nics": nics,
        "nodes_per_leaf": 16,
        "oversubscription": {**NUMBER, "assumed": True},
    }
    path.write_text(yaml.safe_dump({"like": "h100-8x-ib", "network": network}))
    cluster = load_topology(str(path), 32)

    assert cluster.nic_bandwidths_bytes_per_second == (50e9,) * 4 + (25e9,) * 2
    assert cluster.links[NETWORK].bandwidth_bytes_per_second == 25e9  # two GPUs share 400 Gbit/s
    assert cluster.links[SPINE].bandwidth_bytes_per_second == 250e9 / 8 / 2
    assert [item.id for item in cluster.assumptions] == ["cluster.network.oversubscription"]
    assert SPINE not in load_topology(str(path), 16).links


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
        (["network", "nics_per_node"], ..., "file.bad_value", ["network", "nics_per_node"]),
        (["network", "nics"], [], "file.bad_value", ["network.nics", "must not be empty"]),
        (["network", "oversubscription"], NUMBER, "file.bad_value", ["nodes_per_leaf"]),
        (["nvlink"], None, "file.bad_value", ["pcie is missing"]),
        (["gpu"], "MI300X", "file.bad_value", ["AMD", "CUDA"]),
        (["like"], "h100-8x-bi", "file.bad_value", ["like", "h100-8x-ib"]),
        (["nvlink", "domain_size"], 3, "file.bad_value", ["domain_size", "divide", "multiple"]),
        (["nvlink", "domain_size"], 4, "file.bad_value", ["pcie is missing"]),
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
