"""The preflight: two "nodes" on this machine through gloo."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from recorder import LAUNCHER
from runs import make_run

from launch.preflight.facts import why_taken
from launch.run_folder import write_run_folder
from planner.site import Site
from planner.workload import Load, TunerType

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
def test_a_port_that_something_silent_has_stops_all_nodes(folder: Path) -> None:
    """Node 1 reaches what listens there, which never says that it is no store of torch."""
    port = free_port()
    with socket.create_server(("", port + 1)):
        first, second = run_nodes([folder, folder], env={"MASTER_PORT": str(port)})
    assert (first.status, second.status) == (68, 68)
    words = f"port {port + 1} of 127.0.0.1 cannot be used: "
    assert words in first.err and "address already in use" in first.err
    assert f"{words}no answer in 20 s; end what uses it, or set another MASTER_PORT" in second.err


@pytest.mark.slow
def test_torchruns_own_port_is_looked_at_too(folder: Path) -> None:
    port = free_port()
    with socket.create_server(("", port)):
        first, second = run_nodes([folder, folder], env={"MASTER_PORT": str(port)})
    assert (first.status, second.status) == (68, 68)
    found = f"MASTER_PORT={port} of node 0 ({socket.gethostname()}): address already in use"
    assert rows_of(first.out)["network"] == ["FAIL", found]


@pytest.mark.parametrize("listens", [True, False])
def test_a_port_is_taken_as_long_as_something_is_bound_to_it(listens: bool) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        if listens:
            holder.listen()
        port = holder.getsockname()[1]
        assert why_taken(port) == "address already in use"
    assert why_taken(port) == ""


def test_a_patience_that_is_no_number_is_said(folder: Path) -> None:
    (first,) = run_nodes([folder], present=1, env={"PREFLIGHT_WAIT": "5m"})
    assert first.status == 68
    assert first.err == "preflight: PREFLIGHT_WAIT=5m must be a whole number of seconds\n"


@pytest.mark.parametrize("text", [None, "", "{"])
def test_expectations_that_cannot_be_read_are_said_in_a_line(
    folder: Path, text: str | None
) -> None:
    (folder / "preflight.json").unlink()
    if text is not None:
        (folder / "preflight.json").write_text(text)
    (first,) = run_nodes([folder], present=1)
    assert first.status == 68
    assert first.err.startswith("preflight: preflight.json cannot be read here: ")
    assert len(first.err.splitlines()) == 1


def test_a_python_without_torch_is_said(folder: Path) -> None:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise ImportError")
    (first,) = run_nodes([folder], present=1)
    assert (first.status, first.err) == (
        68,
        f"preflight: {sys.executable} has no torch: use an image with ms-swift\n",
    )


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
