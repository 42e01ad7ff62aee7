"""The machine that a step was timed on: its processor, and what its GPU did meanwhile."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

CPU_INFO = Path("/proc/cpuinfo")
ASKED = "clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu,driver_version"
GPU_QUERY = ("nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader")


def host() -> dict[str, Any]:
    """The name of the host's processor, None where it has none, and how many CPUs may be used."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "host_cpu": names[0] if names else None,
        "host_cpus": len(os.sched_getaffinity(0)),
    }


def gpu_while(step: Callable[[], Any]) -> dict[str, str] | None:
    """What nvidia-smi says of the first GPU while steps go on; None: it is not there or failed."""
    try:
        asked = subprocess.Popen(GPU_QUERY, stdout=subprocess.PIPE, text=True)
    except OSError:
        return None
    while asked.poll() is None:
        step()
    answers = asked.communicate()[0].splitlines()
    values = answers[0].split(", ") if answers else []
    names = ASKED.split(",")
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else None
