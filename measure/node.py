"""Asks this machine what it is: the outputs of nvidia-smi and ibdev2netdev, memory and CPUs."""

import os
import subprocess

from planner.errors import EnvironmentLacksError
from planner.topology_detect import IBDEV, SMI, TOPO, Source
from planner.topology_draft import Host
from planner.units import GIB

TIMEOUT_SECONDS = 60  # nvidia-smi without its persistence daemon takes a second a GPU


def node_sources() -> list[Source]:
    """What the commands print here; without ibdev2netdev, without it.

    Raises EnvironmentLacksError: environment.nvidia_smi.
    """
    found = [Source(command, _output(command)) for command in (TOPO, SMI)]
    try:
        return [*found, Source(IBDEV, _output(IBDEV))]
    except EnvironmentLacksError:
        return found


def _output(command: str) -> str:
    try:
        ran = subprocess.run(
            command.split(),
            capture_output=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise EnvironmentLacksError("environment.nvidia_smi", reason="it is not here") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = type(error).__name__
        raise EnvironmentLacksError("environment.nvidia_smi", reason=reason) from None
    if ran.returncode:
        reason = f"it ended with status {ran.returncode}"
        raise EnvironmentLacksError("environment.nvidia_smi", reason=reason)
    return ran.stdout.decode("utf-8", "replace")


def this_host() -> Host:
    """Memory and CPU threads of this machine."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Host(memory_gib=pages * size // GIB, cpus=os.cpu_count())
