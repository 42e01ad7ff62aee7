"""Measures how long the installed `moe-launch render` takes, and writes render_time.md beside it.

    python benchmarks/render_time.py        or  make bench

Every figure is of fresh processes, imports included. Nothing is asserted: a busy machine is slower.
"""

import datetime
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from plan_time import PLAN, REPEATS, machine, take

RENDER = PLAN.with_name("moe-launch")
MODEL = "Qwen3-30B-A3B"
NODES = (2, 8, 32, 128, 512)


def row(nodes: int, folder: Path) -> str:
    """A line of the table: the run of so many nodes, written again."""
    run = folder / str(nodes)
    gpus = ("--gpus", str(8 * nodes), "--nodes", str(nodes))
    batch = ("--global-batch-size", str(8 * nodes))
    site = ("--model-path", "/data/model", "--dataset", "/data/train.jsonl")
    command = [str(PLAN), *gpus, "--model", MODEL, *batch, *site, "--output-dir", str(run)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    taken = [take([str(RENDER), "render", str(run)]).wall for _ in range(REPEATS)]
    return f"| {nodes} | {REPEATS} | {statistics.median(taken):.2f} | {max(taken):.2f} |"


def main() -> None:
    """Measure and write the table."""
    measured_on = machine()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(nodes, Path(folder)) for nodes in NODES]
    today = datetime.datetime.now(datetime.UTC).date()
    text = f"""\
# How long `moe-launch render` takes

All files of a run folder of {MODEL} on nodes of 8 GPUs, in fresh processes, imports included.
Written on {today} by `benchmarks/render_time.py` (`make bench`): {measured_on}.

| nodes | runs | median s | worst s |
| ---: | ---: | ---: | ---: |
{chr(10).join(rows)}
"""
    (Path(__file__).parent / "render_time.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
