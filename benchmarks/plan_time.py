"""Measures how long the installed `plan` takes, and writes plan_time.md beside this file.

    python benchmarks/plan_time.py        or  make bench

Every figure is of fresh processes, imports included. Nothing is asserted: a busy machine is slower.
"""

import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PLAN = Path(sys.executable).parent / "plan"
REPEATS = 10
EXAMPLE = ("--gpus", "16", "--nodes", "2", "--model", "Qwen3-30B-A3B")
LARGE = (
    *("--gpus", "1024", "--nodes", "128", "--model", "DeepSeek-V3"),
    *("--global-batch-size", "4096"),
)


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one process: on the clock, and of the processor."""

    wall: float
    processor: float


def take(command: list[str]) -> Taken:
    """Run a command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"{command} failed")
    return Taken(wall, used.ru_utime + used.ru_stime)


def row(name: str, command: list[str], repeats: int) -> str:
    """A line of the table; the first, warming run is not counted."""
    take(command)
    runs = [take(command) for _ in range(repeats)]
    wall = [run.wall for run in runs]
    busy = statistics.median(run.processor for run in runs)
    figures = f"{statistics.median(wall):.2f} | {max(wall):.2f} | {busy:.2f}"
    return f"| {name} | {repeats} | {figures} |"


def machine() -> str:
    """The interpreter, the processors and how busy they were."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.machine()
    busy = f"{os.getloadavg()[0]:.1f} processes were running"
    return f"Python {platform.python_version()}, {len(names)} x {name}, {busy}"


def main() -> None:
    """Measure and write the table."""
    measured_on = machine()
    python = sys.executable
    rows = [
        row(f"`plan {' '.join(EXAMPLE)}`", [str(PLAN), *EXAMPLE], REPEATS),
        row("the same, `import planner.cli` only", [python, "-c", "import planner.cli"], REPEATS),
        row("`python -c ''`", [python, "-c", ""], REPEATS),
        row(f"`plan {' '.join(LARGE)}`", [str(PLAN), *LARGE], 1),
    ]
    today = datetime.datetime.now(datetime.UTC).date()
    text = f"""\
# How long `plan` takes

Fresh processes, imports included, everything of `make test` installed. Written on {today} by
`benchmarks/plan_time.py` (`make bench`): {measured_on}.

| command | runs | median s | worst s | processor s |
| --- | ---: | ---: | ---: | ---: |
{chr(10).join(rows)}
"""
    (Path(__file__).parent / "plan_time.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
