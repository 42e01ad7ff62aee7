"""What node 0 of a preflight makes of all facts, and what a run expects."""

import json
from typing import Any

import pytest
from runs import make_run

from launch.expectations import expectations
from launch.preflight.judge import Row, all_reduce_floor, all_to_all_floor, judge
from planner.run import machines_of
from planner.site import Site
from planner.topology_files import load_topology

GIB = 2**30

CONFIG: dict[str, Any] = {
    "checkpoint_bytes": 100 * GIB,
    "device_bytes": 70 * GIB,
    "stack": {"torch": "2.11.0"},
    "network_kind": "InfiniBand",
    "inner_bytes_per_second": 450e9,
    "network_bytes_per_second": 50e9,
}
FACTS: dict[str, Any] = {
    "files": {"train.sh": "aa"},
    "versions": {"torch": "2.11.0+cu130"},
    "checkpoint": "",
    "variables": {},
    "missing": [],
    "shm_bytes": 64 * GIB,
    "free_bytes": {"output": 300 * GIB, "cache": 300 * GIB},
    "memlock_bytes": None,
    "interfaces": {"lo": "127.0.0.1", "eth0": "10.0.0.2"},
    "route": "eth0",
    "own_address": "10.0.0.2",
    "chosen": {"NCCL_SOCKET_IFNAME": "", "GLOO_SOCKET_IFNAME": ""},
    "hcas": ["mlx5_0"],
    "port": ["29500", ""],
}
GPU = {"name": "H100", "free_bytes": 79 * GIB, "total_bytes": 80 * GIB}
MEASURED: dict[str, Any] = {
    "bytes": 64 * 2**20,
    "all_reduce_seconds": 0.5e-3,
    "all_to_all_seconds": 1e-3,
    "gpus": [GPU] * 16,
}


def judged(
    second: dict[str, Any] | None = None,
    *,
    shared: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
    trouble: str = "",
    **measured: Any,
) -> dict[str, Row]:
    """Rows of two nodes, of which the second differs."""
    facts = [FACTS | {"host": "a"}, FACTS | {"host": "b"} | (second or {})]
    found = {} if trouble else MEASURED | measured
    rows = judge(CONFIG | (config or {}), 2, 8, facts, [{}, shared or {}], [trouble, ""], found)
    return {row.name: row for row in rows}


def test_nodes_that_are_well_have_no_row_that_says_otherwise() -> None:
    assert {row.level for row in judged().values()} == {"ok"}


LINK_LOCAL = {"lo": "127.0.0.1", "virbr0": "192.168.122.1", "eth0": "10.0.0.3"}
TROUBLES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "another script": ({"files": {"train.sh": "bb"}}, "files", "FAIL", "train.sh differs: aa on"),
    "another image": ({"versions": {"torch": "2.10.0"}}, "versions", "FAIL", "2.10.0 on node 1"),
    "a variable on one": ({"variables": {"NVTE_X": "1"}}, "variables", "FAIL", "NVTE_X differs"),
    "another checkpoint": ({"checkpoint": "c-9"}, "resume", "FAIL", "(b) from c-9"),
    "data not mounted": ({"missing": ["/data"]}, "inputs", "FAIL", "(b) does not see /data"),
    "a full disk": (
        {"free_bytes": {"output": 199 * GIB, "cache": 0}},
        "space",
        "FAIL",
        "199 GiB free for checkpoints; two take 200 GiB",
    ),
    "docker's shm": (
        {"shm_bytes": 64 * 2**20},
        "limits",
        "FAIL",
        "/dev/shm of node 1 (b) has 0.06",
    ),
    "memory not to be locked": ({"memlock_bytes": 65536}, "limits", "warn", "may lock 0 MiB"),
    "no RDMA": ({"hcas": []}, "network", "FAIL", "no active InfiniBand device: NCCL would use TCP"),
    "a bridge comes first": (
        {"interfaces": LINK_LOCAL},
        "network",
        "warn",
        "NCCL would take virbr0 (192.168.122.1), and eth0 leads to node 0",
    ),
    "link-local": (
        {"interfaces": {"usb0": "169.254.1.1", "eth0": "10.0.0.3"}},
        "network",
        "warn",
        "NCCL would take usb0",
    ),
    "a name that is loopback": (
        {"own_address": "127.0.1.1"},
        "network",
        "warn",
        "gloo would tell the others 127.0.1.1",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_of_one_node_is_named_with_a_way_out(name: str) -> None:
    second, row_name, level, words = TROUBLES[name]
    rows = judged(second)
    row = rows.pop(row_name)
    assert (row.level, words in row.found) == (level, True), row.found
    assert row.fix
    assert {each.level for each in rows.values()} == {"ok"}


def test_what_was_chosen_by_hand_is_not_warned_of() -> None:
    chosen = {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}
    second = {"interfaces": LINK_LOCAL, "own_address": "127.0.1.1", "chosen": chosen}
    assert judged(second)["network"].level == "ok"


def test_storage_that_is_not_shared_fails() -> None:
    row = judged(shared={"cache": "cannot be written: permission denied"})["storage"]
    assert row.failed
    assert row.found == "cache of node 1 (b) cannot be written: permission denied"


@pytest.mark.parametrize(
    ("gpu", "level", "words"),
    [
        ({"name": "H200"}, "FAIL", "H100 and H200"),
        ({"free_bytes": 60 * GIB}, "FAIL", "60.0 GiB free; the plan takes 70.0"),
        ({"free_bytes": 76 * GIB}, "warn", "4.0 GiB are taken"),
    ],
)
def test_a_gpu_that_is_another_or_taken_is_said(
    gpu: dict[str, Any], level: str, words: str
) -> None:
    row = judged(gpus=[GPU] * 15 + [GPU | gpu])["gpus"]
    assert (row.level, words in row.found) == (level, True), row.found


def test_ranks_that_fail_are_said_with_their_node() -> None:
    row = judged(trouble="NCCL error: unhandled system error")["ranks"]
    assert row.failed
    assert row.found == "node 0 (a): NCCL error: unhandled system error"


@pytest.mark.parametrize(("times", "level"), [(1, "ok"), (3, "warn"), (12, "FAIL")])
def test_slow_collectives_are_held_against_the_links(times: int, level: str) -> None:
    least = all_to_all_floor(CONFIG, 2, 8, MEASURED["bytes"])
    assert least is not None
    row = judged(all_to_all_seconds=least * times)["all-to-all"]
    assert row.level == level
    assert f"{100 / times:.0f} % of what the plan's links can" in row.found


def test_floors_are_those_of_the_slowest_link() -> None:
    """Eight NICs of 50 GB/s carry a ring between two nodes; half of each rank's bytes cross."""
    assert all_reduce_floor(CONFIG, 2, 8, 16) == pytest.approx(2 * 15 / 16 * 16 / 400e9)
    assert all_to_all_floor(CONFIG, 2, 8, 16) == pytest.approx(8 / 50e9)
    assert all_reduce_floor(CONFIG, 1, 8, 16) == pytest.approx(2 * 7 / 8 * 16 / 450e9)
    assert all_to_all_floor(CONFIG, 1, 1, 16) is None
    unknown = CONFIG | {"network_bytes_per_second": None}
    assert all_reduce_floor(unknown, 2, 8, 16) is None


def test_a_plan_of_another_stack_is_warned_of() -> None:
    row = judged(config={"stack": {"torch": "2.9.0"}})["stack"]
    assert (row.level, row.found) == (
        "warn",
        "the plan is for another: torch 2.11.0+cu130, not 2.9.0",
    )


# -- what the run expects --------------------------------------------------------------------------


def test_a_run_expects_the_links_of_its_topology() -> None:
    cluster = load_topology("h100-8x-ib", 2)
    machines = machines_of(cluster)
    assert machines.inner_bytes_per_second == cluster.links["nvlink"].bandwidth_bytes_per_second
    assert machines.network_bytes_per_second == cluster.links["network"].bandwidth_bytes_per_second
    assert machines.network_kind == "InfiniBand"


def test_hub_ids_are_no_files_and_numbers_of_samples_no_part_of_them() -> None:
    site = Site(model_path="Qwen/Qwen3-30B-A3B", dataset=("/data/a.jsonl#500", "hub/data#9"))
    assert expectations(make_run(ep=8, site=site))["inputs"] == ["/data/a.jsonl"]


def test_two_checkpoints_of_the_run_must_have_room() -> None:
    """Weights in bf16, two moments and master weights in fp32: 14 bytes a parameter."""
    run = make_run(ep=8)
    text = json.dumps(expectations(run))
    assert json.loads(text)["checkpoint_bytes"] == pytest.approx(14 * 30.5e9, rel=0.01)
