"""The preflight: two "nodes" on this machine through gloo, and what node 0 makes of all facts."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from recorder import LAUNCHER
from runs import make_run

from launch.expectations import expectations
from launch.preflight.judge import Row, all_reduce_floor, all_to_all_floor, judge
from launch.run_folder import write_run_folder
from planner.run import machines_of
from planner.site import Site
from planner.topology_files import load_topology
from planner.workload import Load, TunerType

GIB = 2**30


# -- two nodes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """How a node ended and what it printed."""

    status: int
    out: str
    err: str


def free_port() -> int:
    """A port whose neighbour is free too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port - 1


def run_nodes(
    folders: list[Path], *, present: int = 2, env: Mapping[str, str] | None = None, **first: str
) -> list[Ended]:
    """Run the preflight of two nodes of one process each; `first` are variables of node 0 only."""
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    common = {
        **clean,
        "NNODES": "2",
        "NPROC_PER_NODE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "PREFLIGHT_DEVICE": "cpu",
        "PREFLIGHT_WAIT": "60",
        "PYTHONDONTWRITEBYTECODE": "1",
        **(env or {}),
    }
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "preflight"],
            cwd=folders[node],
            env={**common, "NODE_RANK": str(node), **({} if node else first)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(present)
    ]
    said = [node.communicate() for node in nodes]
    return [Ended(node.returncode, *texts) for node, texts in zip(nodes, said, strict=True)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run folder of adapters, which need no room, whose inputs are there."""
    (tmp_path / "data.jsonl").touch()
    site = Site(model_path=str(tmp_path), dataset=(f"{tmp_path / 'data.jsonl'}#500",))
    run = make_run(
        num_nodes=2,
        gpus_per_node=1,
        ep=2,
        tuner_type=TunerType.LORA,
        load=Load.DIRECT,
        site=site,
    )
    write_run_folder(run, tmp_path / "run")
    return tmp_path / "run"


def rows_of(text: str) -> dict[str, list[str]]:
    """The levels of the rows of a printed table, by name, with their lines."""
    lines = [line for line in text.splitlines()[1:] if not line.startswith(" ")]
    return {line[5:17].strip(): [line[:5].strip(), line[17:]] for line in lines}


def test_two_nodes_that_are_well_pass(folder: Path) -> None:
    """One table, on node 0; nothing is left on the storage."""
    first, second = run_nodes([folder, folder])
    assert (first.status, second.status) == (0, 0), first.out + first.err
    assert second.out == ""
    assert first.out.startswith("preflight  2 nodes x 1 processes, ")
    rows = rows_of(first.out)
    assert {level for level, _ in rows.values()} <= {"ok", "warn"}
    assert rows["all-reduce"][1].startswith("1 MiB a rank in ")
    assert not list(folder.glob("*/.preflight*"))


@pytest.mark.slow
def test_a_node_that_does_not_come_is_named(folder: Path) -> None:
    (first,) = run_nodes([folder, folder], present=1, env={"PREFLIGHT_WAIT": "3"})
    assert first.status == 68
    assert "of 2 nodes these did not come in 3 s: 1; look at their logs" in first.err


@pytest.mark.slow
def test_without_node_0_a_node_says_what_it_tried(folder: Path) -> None:
    environment = {"NODE_RANK": "1", "PREFLIGHT_WAIT": "2"}
    (alone,) = run_nodes([folder], present=1, env={}, **environment)
    assert alone.status == 68
    assert "node 0 was not reached in 2 s: 127.0.0.1 port" in alone.err
    named = {**environment, "MASTER_ADDR": "no-such-host.invalid"}
    (alone,) = run_nodes([folder], present=1, env={}, **named)
    assert "the name no-such-host.invalid is not known here" in alone.err


@pytest.mark.slow
def test_folders_that_are_not_shared_and_differ_are_found(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other machine"
    shutil.copytree(folder, other)
    (other / "train.yaml").write_text("lr: 1\n")
    first, second = run_nodes([folder, other], NCCL_IB_TC="136")
    assert (first.status, second.status) == (68, 68)
    rows = rows_of(first.out)
    assert rows["files"][0] == "FAIL" and "train.yaml differs: " in rows["files"][1]
    assert rows["storage"] == [
        "FAIL",
        f"output of node 0 ({socket.gethostname()}) does not show what node 1 wrote there",
    ]
    assert rows["variables"][1].startswith("NCCL_IB_TC differs: 136 on node 0")


@pytest.mark.slow
def test_processes_that_cannot_start_are_said_with_their_reason(folder: Path) -> None:
    """None starts where a node has too few GPUs: the others would wait for it."""
    first, _ = run_nodes([folder, folder], env={"PREFLIGHT_DEVICE": "cuda"})
    assert first.status == 68
    level, found = rows_of(first.out)["ranks"]
    assert level == "FAIL" and found.endswith("0 GPUs are visible, NPROC_PER_NODE=1 are needed")


# -- train.sh --------------------------------------------------------------------------------------

PREFLIGHT = """import sys; print("looked", sys.argv[1:]); sys.exit(5)"""


@pytest.mark.parametrize(
    ("variable", "status", "trains"),
    [("", 68, False), ("1", 68, False), ("report", 0, True), ("0", 0, True)],
)
def test_train_sh_starts_after_its_preflight(
    folder: Path, variable: str, status: int, trains: bool
) -> None:
    from recorder import run_script

    (folder / "preflight" / "__main__.py").write_text(PREFLIGHT)
    place = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "a"}
    ran = run_script(folder / "train.sh", env={**place, "PREFLIGHT": variable})
    assert ran.status == status
    assert bool(ran.calls) == trains
    assert ("looked ['']" in ran.output) == (variable != "0")
    assert ("PREFLIGHT=report starts all the same" in ran.output) == (status == 68)


# -- what node 0 makes of it -----------------------------------------------------------------------

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
