"""node_env.sh: the variables of any launcher become the five of ms-swift, or stop the script."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder import Ran, run_script
from runs import make_run

from launch.run_folder import write_run_folder
from planner.workload import Load

FIVE = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NPROC_PER_NODE")
PET = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_NPROC_PER_NODE": "8"}
TRAIN_JOB = {**PET, "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400"}
PYTORCH_JOB = {
    **PET,
    "MASTER_ADDR": "job-master-0",
    "MASTER_PORT": "23456",
    "WORLD_SIZE": "16",
    "RANK": "1",
}
DLC = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "dlc1-master-0", "MASTER_PORT": "23456"}
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[3-4]",
    "SLURM_JOB_NODELIST": "gpu[1-4]",
}
PLAIN = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-0", "NPROC_PER_NODE": "8"}
SCONTROL = """#!/bin/sh
[ "$1 $2 $3" = "show hostnames gpu[3-4]" ] || exit 1
printf 'gpu3\\ngpu4\\n'
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train.sh of two nodes, with a `scontrol` beside the stand-ins for ms-swift."""
    root = tmp_path_factory.mktemp("conventions")
    write_run_folder(make_run(ep=8, load=Load.DIRECT), root / "run")
    (root / "stand-ins").mkdir()
    scontrol = root / "stand-ins" / "scontrol"
    scontrol.write_text(SCONTROL)
    scontrol.chmod(0o755)
    return root / "run" / "train.sh"


def five(ran: Ran) -> tuple[str, ...]:
    assert ran.status == 0, ran.output
    return tuple(ran.calls[0].env[name] for name in FIVE)


CONVENTIONS = {
    "Kubeflow TrainJob v2": (TRAIN_JOB, ("2", "1", "job-node-0-0.job", "29400", "8")),
    "Kubeflow PyTorchJob v1": (PYTORCH_JOB, ("2", "1", "job-master-0", "23456", "8")),
    "Kubeflow leaves the processes to the machine": (
        {**TRAIN_JOB, "PET_NPROC_PER_NODE": "auto"},
        ("2", "1", "job-node-0-0.job", "29400", "8"),
    ),
    "Slurm, a step of some nodes": (SLURM, ("2", "1", "gpu3", str(20000 + 123456 % 20000), "8")),
    "Slurm, with a master of the user's": (
        {**SLURM, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"},
        ("2", "1", "127.0.0.1", "1234", "8"),
    ),
    "Slurm and plain variables made of it": (
        {**SLURM, **PLAIN},
        ("2", "1", "node-0", str(20000 + 123456 % 20000), "8"),
    ),
    "PAI-DLC with the processes of newer images": (
        {**DLC, "NPROC_PER_NODE": "8"},
        ("2", "1", "dlc1-master-0", "23456", "8"),
    ),
    "plain variables and processes counted by torch": (
        {**PLAIN, "WORLD_SIZE": "16", "RANK": "9"},
        ("2", "1", "node-0", "29500", "8"),
    ),
}
CONTRADICTIONS = {
    "nodes": ({**PLAIN, **TRAIN_JOB, "NNODES": "4"}, "NNODES=4 and PET_NNODES=2 contradict"),
    "rank": ({**PLAIN, **DLC, "RANK": "0"}, "NODE_RANK=1 and RANK=0 contradict"),
    "processes": (
        {**TRAIN_JOB, "NPROC_PER_NODE": "4"},
        "NPROC_PER_NODE=4 and PET_NPROC_PER_NODE=8 contradict",
    ),
    "master": ({**PLAIN, **TRAIN_JOB}, "MASTER_ADDR=node-0 and PET_MASTER_ADDR=job-node-0-0.job"),
    "PAI-DLC and Slurm": ({**SLURM, **DLC, "RANK": "0"}, "SLURM_NODEID=1 and RANK=0 contradict"),
    "a world that is neither": (
        {**PLAIN, "WORLD_SIZE": "3", "RANK": "1"},
        "NNODES=2 and WORLD_SIZE=3, neither the nodes nor the 16 processes, contradict",
    ),
    "one node of a job of two": ({**DLC, "NNODES": "1"}, "NNODES=1 and WORLD_SIZE=2"),
}
REFUSALS = {
    "an elastic number of nodes": ({**TRAIN_JOB, "PET_NNODES": "1:2"}, 64, "PET_NNODES=1:2 must"),
    "WORLD_SIZE counts processes": (
        {**DLC, "WORLD_SIZE": "16"},
        65,
        "WORLD_SIZE seems to count processes: set NNODES=2 and NODE_RANK",
    ),
    "the batch script itself": (
        {key: value for key, value in SLURM.items() if not key.startswith("SLURM_STEP_")},
        64,
        "srun --ntasks-per-node=1",
    ),
    "eight tasks a node": ({**SLURM, "SLURM_STEP_NUM_TASKS": "16"}, 65, "start one task a node"),
    "nodes that scontrol does not know": ({**SLURM, "SLURM_STEP_NODELIST": "x"}, 64, "scontrol"),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_convention_becomes_the_five_variables(script: Path, name: str) -> None:
    environment, expected = CONVENTIONS[name]
    assert five(run_script(script, env=environment)) == expected


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_stops_with_a_status_of_its_own(script: Path, name: str) -> None:
    environment, words = CONTRADICTIONS[name]
    ran = run_script(script, env=environment)
    assert (ran.status, ran.calls) == (67, [])
    assert words in ran.output and "unset the wrong one" in ran.output
    assert len(ran.output.splitlines()) == 1


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_wrong_is_called_by_the_variable_that_says_it(script: Path, name: str) -> None:
    environment, status, words = REFUSALS[name]
    ran = run_script(script, env=environment)
    assert (ran.status, ran.calls) == (status, [])
    assert words in ran.output


VARIABLES = sorted({*TRAIN_JOB, *PYTORCH_JOB, *DLC, *SLURM, *PLAIN})
VALUES = st.sampled_from(
    ["", "0", "1", "2", "16", "08", "-1", "a[$(touch pwned)]", "$(touch x)", " 2"]
)


@settings(max_examples=60)
@given(environment=st.dictionaries(st.sampled_from(VARIABLES), VALUES))
def test_whatever_the_variables_are_nothing_runs_but_a_complete_start(
    script: Path, environment: dict[str, str]
) -> None:
    """Either one line with a status of the table, or all five, of two nodes with 8 processes."""
    ran = run_script(script, env=environment)
    assert not [*script.parent.parent.rglob("pwned"), *script.parent.parent.rglob("x")]
    if ran.status:
        assert ran.status in (64, 65, 67), ran.output
        assert ran.calls == []
    else:
        nodes, rank, _, _, processes = five(ran)
        assert int(nodes) * int(processes) == 16
        assert 0 <= int(rank) < int(nodes)
