"""Real ms-swift on two "nodes" of this machine, started, killed and started again by moe-launch."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.run_folder import write_run_folder
from planner.run import Run
from planner.workload import Load
from stack import models
from stack.emitted import node_environment
from stack.test_end_to_end import tiny_run

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SAVE_STEPS = 2
STEPS = 6


def run_of_two_nodes(model_folder: Path, dataset: Path) -> Run:
    """Return six steps of the tiny model under EP2, saved every two, as two nodes of one GPU."""
    run = tiny_run(model_folder, dataset)
    changed = {"train_iters": STEPS, "save_steps": SAVE_STEPS}
    return replace(
        run,
        load=Load.DIRECT,
        plan=replace(run.plan, args=run.plan.args | changed),
        recipe=replace(run.recipe, **changed),
        machines=replace(run.machines, num_nodes=2, gpus_per_node=1),
    )


class Job:
    """A run folder, and moe-launch on it."""

    def __init__(self, root: Path) -> None:
        model = models.write_tiny_qwen3_moe(root / "tiny-qwen3-moe")
        dataset = models.write_toy_dataset(root / "toy.jsonl")
        self.folder = root / "run"
        write_run_folder(run_of_two_nodes(model, dataset), self.folder)

    def command(self, *words: object, file_bytes: int | None = None) -> Any:
        """What a command answers; with `file_bytes`, nothing it starts can write a larger file."""

        def limit() -> None:
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        port = node_environment("0.16.1")
        variables = {**port, "PREFLIGHT": "1", "PREFLIGHT_DEVICE": "cpu"}
        ran = subprocess.run(
            [sys.executable, "-c", "from launch.cli import main; main()", *map(str, words)],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=limit,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def submit(self, **limits: int) -> None:
        hosts = ("--hosts", "localhost,localhost")
        self.command("submit", self.folder, *hosts, "--yes", "--json", **limits)

    def states(self) -> list[str]:
        nodes = self.command("status", self.folder, "--json")["nodes"]
        return [node["state"] for node in nodes]

    @property
    def current(self) -> Path:
        """The files of the last submission."""
        return max(self.folder.glob("launch/*"), key=lambda path: path.stat().st_ctime)

    def has_ended(self) -> bool:
        return len(list(self.current.glob("node-*.ended"))) == 2

    def log(self, node: int) -> str:
        return (self.current / f"node-{node}.log").read_text(errors="replace")

    def losses(self) -> list[tuple[int, float]]:
        """Step and loss of every line, those of all starts."""
        path = self.folder / "output" / "logging.jsonl"
        rows = map(json.loads, path.read_text().splitlines()) if path.exists() else []
        return [(int(row["iteration"].split("/")[0]), row["loss"]) for row in rows if "loss" in row]

    def processes(self) -> list[int]:
        """What still runs of the last submission."""
        mark = f"MOE_LAUNCH_NODE={self.current.name}-".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:  # it has ended
                continue
        return found

    def rank(self, number: int) -> int:
        """The process of a rank."""
        for pid in self.processes():
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"RANK={number}".encode() in variables:
                return pid
        raise AssertionError("no such rank runs")


def wait(happened: Callable[[], bool], job: Job) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline, job.log(1)[-4000:]
        time.sleep(0.1)


def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    """Preflight, three steps or more, a kill; no process is left, and the second start goes on with
    the very losses that the first one had."""
    job = Job(tmp_path)
    job.submit()
    saved = job.folder / "output" / f"checkpoint-{SAVE_STEPS}" / "iter_0000002" / "metadata.json"
    wait(lambda: len(job.losses()) > SAVE_STEPS and saved.exists(), job)
    os.kill(job.rank(1), signal.SIGKILL)
    wait(job.has_ended, job)
    assert job.states() == ["failed", "failed"]
    assert job.processes() == []
    assert "preflight  2 nodes x 1 processes" in job.log(0)
    before = dict(job.losses())

    job.submit()
    wait(job.has_ended, job)
    assert job.states() == ["succeeded", "succeeded"], job.log(1)[-4000:]
    assert "going on from output/checkpoint-" in job.log(0)
    again = job.losses()[len(before) :]
    first, last = again[0][0], again[-1][0]
    assert (first % SAVE_STEPS, last) == (1, STEPS)
    assert first > SAVE_STEPS
    common = before.keys() & dict(again).keys()
    assert {step: before[step] for step in common} == {step: dict(again)[step] for step in common}


def test_a_disk_that_fills_while_saving_leaves_a_checkpoint_that_is_passed_over(
    tmp_path: Path,
) -> None:
    """What cannot be written ends the run; the next start says which checkpoint is torn."""
    job = Job(tmp_path)
    job.submit(file_bytes=400_000)
    wait(job.has_ended, job)
    assert "failed" in job.states()
    assert "File too large" in job.log(0) + job.log(1)
    assert job.processes() == []
    assert (job.folder / "output" / f"checkpoint-{SAVE_STEPS}").is_dir()

    job.submit()
    wait(lambda: "megatron sft train.yaml\n" in job.log(0), job)  # without flags of resuming
    assert f"not complete, passed over: checkpoint-{SAVE_STEPS}\n" in job.log(0)
    job.command("stop", job.folder, "--json")
    assert job.processes() == []
