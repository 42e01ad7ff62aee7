"""From what a user typed to a problem."""

from pathlib import Path

import pytest
import yaml

from planner.errors import UsageError
from planner.inputs import Request, check_mtp, to_problem
from planner.topology_files import DEFAULT_TOPOLOGY, TOPOLOGIES_FOLDER, host_gpus


@pytest.fixture
def hosts_of_16(tmp_path: Path) -> str:
    """A topology file of a user."""
    content = yaml.safe_load((TOPOLOGIES_FOLDER / f"{DEFAULT_TOPOLOGY}.yaml").read_text())
    path = tmp_path / "t16.yaml"
    content["nvlink"]["domain_size"] = content["gpus_per_node"] = 16
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_without_nodes_the_hosts_of_the_topology_are_filled(hosts_of_16: str) -> None:
    assert (host_gpus(hosts_of_16), host_gpus(DEFAULT_TOPOLOGY)) == (16, 8)
    for gpus, topology, nodes in (
        (16, hosts_of_16, 1),
        (32, hosts_of_16, 2),
        (4, hosts_of_16, 1),
        (16, None, 2),
        (4, None, 1),
    ):
        request = Request(gpus=gpus, model="Qwen3-30B-A3B", topology=topology)
        assert to_problem(request).cluster.num_nodes == nodes


def test_the_nearest_nodes_are_of_hosts_of_the_topology(hosts_of_16: str) -> None:
    request = Request(gpus=16, nodes=3, model="Qwen3-30B-A3B", topology=hosts_of_16)
    with pytest.raises(UsageError, match="do not divide over 3 nodes") as caught:
        to_problem(request)
    assert "--nodes 2" in caught.value.fix


@pytest.mark.parametrize(("model", "available"), [("Qwen3-30B-A3B", 0), ("DeepSeek-V3", 1)])
def test_no_more_mtp_layers_than_the_checkpoint_holds(model: str, available: int) -> None:
    check_mtp(to_problem(Request(gpus=8, model=model, mtp_num_layers=available)))
    with pytest.raises(UsageError, match=f"{model} holds: {available}") as caught:
        check_mtp(to_problem(Request(gpus=8, model=model, mtp_num_layers=available + 1)))
    assert caught.value.fix == f"use --mtp-num-layers {available}"
