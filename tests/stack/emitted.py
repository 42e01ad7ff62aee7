"""Runs emitted scripts, unchanged, on CPU processes in the place of GPUs."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.real_stack import python_path


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def node_environment(processes: int, megatron_core: str = "0.16.1") -> dict[str, str]:
    """Return the environment of a single node whose GPUs are CPU processes."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": python_path(megatron_core),
        "MOE_PLANNER_STACK_ON": "cpu",
        "HF_HUB_OFFLINE": "1",
        "NNODES": "1",
        "NODE_RANK": "0",
        "NPROC_PER_NODE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }


def run_script(
    script: Path,
    *arguments: str,
    processes: int = 2,
    megatron_core: str = "0.16.1",
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Return the exit status of a bash script and, in `stdout`, all that it printed."""
    return subprocess.run(
        ["bash", str(script), *arguments],
        cwd=script.parent,
        env={**node_environment(processes, megatron_core), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
