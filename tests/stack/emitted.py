"""Runs emitted scripts, unchanged, on CPU processes in the place of GPUs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from recorder import LAUNCHER

from stack.real_stack import python_path


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def node_environment(megatron_core: str) -> dict[str, str]:
    """The environment of a node that has nothing of a launcher's, and CPUs for GPUs."""
    plain = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    return {
        **plain,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": python_path(megatron_core),
        "MOE_PLANNER_STACK_ON": "cpu",
        "HF_HUB_OFFLINE": "1",
        "PREFLIGHT": "0",
        "MASTER_PORT": str(free_port()),
    }


def run_script(
    script: Path, *arguments: str, megatron_core: str = "0.16.1", groups: Path | None = None
) -> str:
    """Return what a script printed. Raises AssertionError with it if the script failed.

    Which process groups its workers speak in is written into the folder `groups`.
    """
    recorded = {} if groups is None else {"MOE_PLANNER_RECORD_GROUPS": str(groups)}
    ran = subprocess.run(
        ["bash", str(script), *arguments],
        env={**node_environment(megatron_core), **recorded},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-8000:]
    return ran.stdout
