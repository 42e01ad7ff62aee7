"""Every launcher's variables, through the emitted script and the real torch.distributed.run.

The place of training takes a worker that says who it is and adds up a tensor over all ranks.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from recorder import LAUNCHER
from runs import make_run

from launch.run_folder import write_run_folder
from planner.workload import Load
from stack.emitted import free_port

pytestmark = [pytest.mark.stack, pytest.mark.slow]

MEGATRON = """\
#!{python}
import os, sys
sys.path.insert(0, {tests!r})
from recorder import torchrun_args
command = [sys.executable, "-m", "torch.distributed.run", *torchrun_args(), {worker!r}]
os.execv(sys.executable, command)
"""
WORKER = """\
import json, os, pathlib, torch
torch.distributed.init_process_group("gloo")
total = torch.ones(1)
torch.distributed.all_reduce(total)
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK")
who = {**{name: int(os.environ[name]) for name in names}, "total": int(total)}
(pathlib.Path(os.environ["SEEN"]) / os.environ["RANK"]).write_text(json.dumps(who))
torch.distributed.destroy_process_group()
"""


def plain(node: int, port: str) -> Mapping[str, str]:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {"NNODES": "2", "NODE_RANK": str(node), "NPROC_PER_NODE": "2", **address}


def dlc(node: int, port: str) -> Mapping[str, str]:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {"WORLD_SIZE": "2", "RANK": str(node), **address}


def pytorch_job(node: int, port: str) -> Mapping[str, str]:
    pet = {"PET_NNODES": "2", "PET_NODE_RANK": str(node), "PET_NPROC_PER_NODE": "2"}
    return {**dlc(node, port), "WORLD_SIZE": "4", **pet}


def train_job(node: int, port: str) -> Mapping[str, str]:
    pet = {"PET_NNODES": "2", "PET_NODE_RANK": str(node), "PET_NPROC_PER_NODE": "2"}
    return {**pet, "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}


def slurm(node: int, port: str) -> Mapping[str, str]:
    step = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2", "MASTER_PORT": port}
    return {"SLURM_JOB_ID": "7", "SLURM_NODEID": str(node), "MASTER_ADDR": "127.0.0.1", **step}


@pytest.mark.parametrize("convention", [plain, dlc, pytorch_job, train_job, slurm])
def test_two_nodes_find_each_other_and_every_rank_is_there_once(
    tmp_path: Path, convention: Callable[[int, str], Mapping[str, str]]
) -> None:
    run = make_run(num_nodes=2, gpus_per_node=2, ep=4, load=Load.DIRECT)
    write_run_folder(run, tmp_path / "run")
    worker, seen, programs = (tmp_path / name for name in ("worker.py", "seen", "bin"))
    worker.write_text(WORKER)
    seen.mkdir()
    programs.mkdir()
    tests = str(Path(__file__).parent.parent)
    script = MEGATRON.format(python=sys.executable, tests=tests, worker=str(worker))
    (programs / "megatron").write_text(script)
    (programs / "megatron").chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    common = {**clean, "SEEN": str(seen), "PREFLIGHT": "0", "OMP_NUM_THREADS": "1"}
    common["PATH"] = os.pathsep.join([str(programs), os.environ["PATH"]])
    port = str(free_port())
    nodes = [
        subprocess.Popen(
            ["bash", tmp_path / "run" / "train.sh"],
            env={**common, **convention(node, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    said = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "".join(said)
    ranks = {int(path.name): json.loads(path.read_text()) for path in seen.iterdir()}
    assert ranks == {
        rank: {
            "RANK": rank,
            "WORLD_SIZE": 4,
            "LOCAL_RANK": rank % 2,
            "GROUP_RANK": rank // 2,
            "total": 4,
        }
        for rank in range(4)
    }
