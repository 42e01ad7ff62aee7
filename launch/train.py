"""Runs this node's part of a run."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from launch.expected import Expected, read_expected_run
from launch.training import title
from planner.command import write_output
from planner.errors import EnvironmentLacksError
from planner.run import Run


def train(run_folder: Path, *, dry_run: bool, expected: Expected) -> NoReturn:
    """Shows what will run, checks the GPUs of this machine, and becomes train.sh.

    Raises UsageError: those of `read_expected_run`; EnvironmentLacksError: launch.gpus_missing.
    """
    run = read_expected_run(run_folder, expected)
    write_output(f"{title(run)}, from {run_folder}\n")
    if dry_run:
        os.environ["DRY_RUN"] = "1"
    else:
        check_gpus(run, os.environ, gpu_count())
    os.execvp("bash", ["bash", str((run_folder / "train.sh").absolute())])


def check_gpus(run: Run, environment: Mapping[str, str], available: int) -> None:
    """Checks that a machine has the GPUs that the plan wants of it.

    Raises EnvironmentLacksError: launch.gpus_missing.
    """
    wanted = run.machines.gpus_per_node
    given = environment.get("NPROC_PER_NODE", "")
    if given.isdecimal():  # train.sh refuses anything else
        wanted = int(given)
    if available < wanted:
        raise EnvironmentLacksError(
            "launch.gpus_missing",
            available=available,
            wanted=wanted,
            nodes=run.machines.num_nodes,
            gpu=run.machines.gpu_name,
        )


def gpu_count() -> int:
    """GPUs that nvidia-smi lists; 0 where it does not run."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False
        )
    except OSError:
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
