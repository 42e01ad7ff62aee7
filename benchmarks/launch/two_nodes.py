"""Launches a run on two GPUs of this machine as two nodes, kills a rank, and launches it again.

    python benchmarks/launch/two_nodes.py WORK RESULTS SECONDS [--cpu] [--link GBYTES_PER_SECOND]

`plan` writes a run folder for two nodes of one GPU; `moe-launch submit` starts its scripts as they
are, on `localhost` twice; which GPU a node has is said by the site's environment file. After step 7
rank 1 is killed; the second submission has to go on from the checkpoint of step 5. RESULTS gets one
JSON line, written anew after every stage: what a run that is cut off has found is there. All that
is started is ended. WORK must be new. --link is what the plan takes for the link between the nodes.
With --cpu a tiny model is trained by the real packages on processes (see tests/stack).
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from small_model import CPU, GPU, Sizes, write_documents, write_model

STEPS = 10
SAVE_STEPS = 5
KILL_AFTER = 7  # steps
LEAST_RESUMED = 3  # steps after the checkpoint that show that it goes on
PORT = 29640
END_SECONDS = 20  # kept for ending the job and writing what was found
COMMAND_SECONDS = 45  # of moe-launch and plan
PACKAGES = ("ms-swift", "mcore-bridge", "megatron-core", "transformer-engine", "torch")
LOGGED = ("loss", "grad_norm", "load_balancing_loss", "memory(GiB)")
SIZES = {
    "tp": "tensor_model_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "cp": "context_parallel_size",
    "ep": "expert_model_parallel_size",
    "etp": "expert_tensor_parallel_size",
    "dp": "data_parallel_size",
}

TOPOLOGY = """\
description: two GPUs of one host, each taken for a node of its own
gpu: H200-SXM-141GB
gpus_per_node: 1
host_memory_gib: {{value: 128, source: half of the machine}}
cpus_per_node: {{value: 16, source: half of the machine}}
network:
  kind: Ethernet
  nics_per_node: 1
  gbits_per_second_per_nic: {{value: {gbits}, source: the link that NCCL was seen to take}}
  latency_microseconds: {{value: 3.4, source: "NVIDIA/nccl src/graph/tuning.cc @5067397, NVLink"}}
  efficiency: tcp
"""
SITE = """\
hosts: {{addresses: [localhost, localhost], master_port: {port}, environment_file: {file}}}
"""
ENVIRONMENT = """\
[[ -z "${{NODE_RANK:-}}" ]] || export CUDA_VISIBLE_DEVICES="$NODE_RANK"
export NCCL_DEBUG=INFO NCCL_DEBUG_FILE={folder}/nccl-%p.txt
"""


class StopError(Exception):
    """It cannot go on: the sentence says why."""


@dataclass(frozen=True)
class Job:
    """A run folder, what starts it, and until when there is time."""

    work: Path
    deadline: float

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.work / "run"

    @property
    def current(self) -> str:
        """The number of the last submission."""
        number: str = json.loads((self.folder / "submission.json").read_text())["id"]
        return number

    def log(self, node: int) -> str:
        """What a node printed."""
        if not (self.folder / "submission.json").exists():
            return ""
        path = self.folder / "launch" / self.current / f"node-{node}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def ends(self) -> list[str]:
        """How each node that has ended did."""
        paths = [self.folder / "launch" / self.current / f"node-{node}.ended" for node in (0, 1)]
        return [path.read_text().strip() for path in paths if path.exists()]

    def rows(self) -> list[dict[str, Any]]:
        """The steps of all starts, as ms-swift logged them."""
        page = self.folder / "output" / "logging.jsonl"
        lines = page.read_text().split("\n")[:-1] if page.exists() else []
        return [step for step in map(_step, lines) if step]

    def wait(self, what: str, happened: Callable[[], object], every: float = 0.1) -> float:
        """Seconds until it happened. Raises StopError: both nodes ended first, no time is left."""
        start = time.monotonic()
        while not happened():
            if time.monotonic() > self.deadline - END_SECONDS:
                raise StopError(f"no time was left to wait for {what}")
            if len(self.ends()) == 2 and not happened():
                raise StopError(f"the nodes ended before {what}: {self.ends()}")
            time.sleep(every)
        return round(time.monotonic() - start, 1)

    def command(self, *words: object) -> str:
        """What `moe-launch` prints. Raises StopError."""
        return _run("launch.cli", *words)


def _run(module: str, *words: object) -> str:
    code = f"from {module} import main; main()"
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise StopError(f"{words[0]} took more than {COMMAND_SECONDS} s") from None
    if ran.returncode:
        said = (ran.stderr or ran.stdout)[-500:]
        raise StopError(f"{words[0]} ended with {ran.returncode}: {said}")
    return ran.stdout


def _step(line: str) -> dict[str, Any]:
    """What is kept of a line of the log; nothing of one that is no step."""
    said = json.loads(line)
    if "loss" not in said or "iteration" not in said:
        return {}
    number = int(said["iteration"].split("/")[0])
    return {"step": number, **{name: said[name] for name in LOGGED if name in said}}


def processes(job: Job) -> Iterator[tuple[int, int, list[str]]]:
    """What runs of the last submission: the process, its parent, its environment."""
    mark = f"MOE_LAUNCH_NODE={job.current}-"
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables = (path / "environ").read_bytes().decode(errors="replace").split("\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has ended
            continue
        if any(each.startswith(mark) for each in variables):
            yield int(path.name), parent, variables


def rank(job: Job, number: int) -> int:
    """The process of a rank, not one that it started. Raises StopError."""
    ranks = {
        process: parent
        for process, parent, variables in processes(job)
        if f"RANK={number}" in variables and "LOCAL_RANK=0" in variables
    }
    found = [process for process, parent in ranks.items() if parent not in ranks]
    if len(found) != 1:
        raise StopError(f"rank {number} is {found or 'not there'}")
    return found[0]


def on_gpus() -> int | None:
    """How many processes use a GPU; None where nvidia-smi does not say."""
    query = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        ran = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return len(ran.stdout.split())


def transports(work: Path) -> list[str]:
    """Ways that NCCL says it takes between ranks, each once."""
    said = "".join(path.read_text(errors="replace") for path in work.glob("nccl-*.txt"))
    return sorted(set(re.findall(r" via (\S+)", said)))


def table(log: str) -> list[str]:
    """The rows of a preflight in the log of node 0."""
    lines = log.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("preflight  "))
    rows = re.compile(r"(preflight  |ok   |warn |FAIL |                 -> )")
    end = next((i for i in range(start, len(lines)) if not rows.match(lines[i])), len(lines))
    return lines[start:end]


def differences(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Any]:
    """How far steps that both starts made are apart, as shares of the first start's values."""
    before = {step["step"]: step for step in first}
    return {
        str(step["step"]): {
            name: abs(step[name] / before[step["step"]][name] - 1)
            for name in ("loss", "grad_norm")
            if before[step["step"]].get(name)
        }
        for step in second
        if step["step"] in before
    }


def write_run(work: Path, sizes: Sizes, gbytes: float) -> str:
    """The run folder in `work`; its layout in words. Raises StopError."""
    if not (work / "model").exists():
        write_model(work / "model", sizes)
    write_documents(work / "train.jsonl", STEPS * sizes.packs_a_step * 3, sizes.pack_tokens // 2)
    (work / "topology.yaml").write_text(TOPOLOGY.format(gbits=round(8 * gbytes)))
    (work / "environment.sh").write_text(ENVIRONMENT.format(folder=work))
    (work / "site.yaml").write_text(SITE.format(port=PORT, file=work / "environment.sh"))
    settings = {
        "lr": "1e-3",
        "train_iters": STEPS,
        "save_steps": SAVE_STEPS,
        "dataset_num_proc": 1,
        "dataloader_num_workers": 1,
    }
    problem: dict[str, object] = {
        "--gpus": 2,
        "--nodes": 2,
        "--model": work / "model",
        "--topology": work / "topology.yaml",
        "--stack": "gpu-kit-2026-11",
        "--placement": "any",
        "--seq-length": sizes.pack_tokens,
        "--global-batch-size": sizes.packs_a_step,
        "--micro-batch-size": 1,
        "--recompute": "none",
    }
    run: dict[str, object] = {
        "--model-path": work / "model",
        "--dataset": work / "train.jsonl",
        "--load": "direct",
        "--site": work / "site.yaml",
        "--output-dir": work / "run",
    }
    words = [word for name, value in problem.items() for word in (name, value)]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    plans = json.loads(_run("planner.entry", *words, "--json"))["plans"]
    spread = [plan["layout"][SIZES["ep"]] == 2 == plan["layout"][SIZES["dp"]] for plan in plans]
    run["--pick"] = spread.index(True) + 1  # experts on both nodes, whatever the link makes of it
    _run("planner.entry", *words, *(word for item in run.items() for word in item))
    layout = json.loads((work / "run" / "run.json").read_text())["plan"]["layout"]
    shown = " ".join(f"{short}{layout[name]}" for short, name in SIZES.items())
    packs = f"global batch {sizes.packs_a_step} packs of {sizes.pack_tokens} tokens"
    return f"{shown}, 2 nodes x 1 GPU, {packs}, checkpoint every {SAVE_STEPS} steps"


def first_start(job: Job, row: dict[str, Any]) -> None:
    """Trains until step 7 and kills a rank. Raises StopError."""
    seconds = row["seconds"]
    _submit(job, row, "submit")
    seconds["preflight_to_first_step"] = job.wait("the first step", job.rows)
    passed = job.wait(f"step {KILL_AFTER}", lambda: len(job.rows()) >= KILL_AFTER, 0.01)
    os.kill(rank(job, 1), signal.SIGKILL)
    seconds["first_step_to_kill_with_a_save"] = passed
    row["killed"] = f"rank 1 by kill -9 after {len(job.rows())} steps"
    seconds["kill_to_both_nodes_ended"] = job.wait("the end", lambda: len(job.ends()) == 2)
    row["node_ends"] = job.ends()
    row["processes_left"] = len(list(processes(job)))
    row["processes_left_on_gpus"] = on_gpus()
    row["states_after_kill"] = states(job)
    row["steps"] = job.rows()
    row["checkpoints"] = sorted(path.name for path in job.folder.glob("output/checkpoint-*"))


def second_start(job: Job, row: dict[str, Any]) -> None:
    """Goes on from the checkpoint. Raises StopError."""
    seconds, before = row["seconds"], len(row["steps"])

    def resumed() -> list[dict[str, Any]]:
        row["steps_resumed"] = job.rows()[before:]
        row["steps_after_resuming"] = len(row["steps_resumed"])
        row["differences"] = differences(row["steps"], row["steps_resumed"])
        found: list[dict[str, Any]] = row["steps_resumed"]
        return found

    _submit(job, row, "second_submit")
    row["resumed_from"] = re.findall(r"going on from (\S+)", job.log(0))
    seconds["second_preflight_to_first_step"] = job.wait("a step after resuming", resumed)
    job.wait(f"{LEAST_RESUMED} steps after resuming", lambda: len(resumed()) >= LEAST_RESUMED)
    seconds["second_first_step_to_end"] = job.wait("the end", lambda: len(job.ends()) == 2)
    resumed()
    row["second_node_ends"] = job.ends()
    row["states_at_end"] = states(job)
    row["watch"] = job.command("watch", job.folder, "--once").splitlines()


def _submit(job: Job, row: dict[str, Any], name: str) -> None:
    """Submits, and waits for the table of the preflight."""
    start = time.monotonic()
    job.command("submit", job.folder, "--yes")
    job.wait("the preflight", lambda: re.search(r"^\w+ +all-to-all .*\n", job.log(0), re.M))
    row["seconds"][f"{name}_to_preflight_table"] = round(time.monotonic() - start, 1)
    row["preflight"].append(table(job.log(0)))


def states(job: Job) -> list[str]:
    """What `moe-launch status` says of the nodes."""
    nodes = json.loads(job.command("status", job.folder, "--json"))["nodes"]
    return [f"{node['state']} {node['detail']}".strip() for node in nodes]


def machine() -> dict[str, str]:
    """What the run is of."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        ran = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
        gpu = "; ".join(ran.stdout.strip().splitlines())
    except (OSError, subprocess.SubprocessError):
        gpu = "none: processes on CPU"
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} none")
    return {"gpu": gpu, "stack": ", ".join(versions)}


def end(job: Job, row: dict[str, Any]) -> None:
    """Ends what still runs, and says what was left all the same."""
    row["transports"] = transports(job.work)
    try:
        if len(job.ends()) < 2:
            job.command("stop", job.folder)
        row["processes_left_at_end"] = len(list(processes(job)))
    except (StopError, OSError) as error:
        row.setdefault("stopped", f"it was not ended: {error}")
    with suppress(OSError):  # a process may have ended meanwhile
        for process, _, _ in processes(job):
            os.kill(process, signal.SIGKILL)


def main() -> int:
    """The status: 0 where a killed run went on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--link", type=float, default=450.0)
    given = parser.parse_args()
    sizes = CPU if given.cpu else GPU
    job = Job(given.work.absolute(), time.monotonic() + given.seconds)
    row: dict[str, Any] = {
        "date": date.today().isoformat(),
        "commit": os.environ.get("COMMIT", ""),
        **machine(),
        "model": f"Qwen3-MoE, random weights, {sizes}",
        "seconds": {},
        "preflight": [],
    }
    try:
        row["layout"] = write_run(job.work, sizes, given.link)
        for start in (first_start, second_start):
            print(f"{start.__name__} ...", flush=True)
            start(job, row)
            given.results.write_text(json.dumps(row) + "\n")
            print(json.dumps(row["seconds"]), flush=True)
    except StopError as stop:
        row["stopped"] = str(stop)
        print(f"stopped: {stop}\n{job.log(0)[-3000:]}\n{job.log(1)[-3000:]}", flush=True)
    finally:
        end(job, row)
        given.results.write_text(json.dumps(row) + "\n")
    return 1 if "stopped" in row else 0


if __name__ == "__main__":
    sys.exit(main())
