"""Runs `megatron sft` with two ranks on one GPU for each row of sft.jsonl, and gathers memory.

    python benchmarks/memory/sft_run.py ROWS WEIGHTS RESULTS SECONDS

WEIGHTS is a model folder of the rows' widths with as many layers or more. Each rank is a node of
its own: NCCL takes them for two hosts and speaks over sockets. The longest run goes beside the
others. RESULTS gets a JSON line a run; what does not fit into SECONDS is left out.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure.verify.row import Row

RANKS = 2
LEAST_SECONDS = 40  # a run that has less is not begun
END_SECONDS = 10  # given to a rank that is told to end
KILL_SECONDS = 15  # before the end, to write what there is
FIRST_PORT = 29611
MEDIAN_DOCUMENT, SIGMA = 700, 1.0  # of the letters of a document, which are about log-normal
TEMPLATE_TOKENS = 128  # at most, around a document
PACKAGES = ("ms-swift", "mcore-bridge", "megatron-core", "transformer-engine", "torch")
PLUGIN = Path(__file__).with_name("sft_plugin.py")
NOT_OF_A_TEST = {"num_train_epochs", "save_steps"}  # epochs win over iterations in ms-swift


def write_model(row: Row, weights: Path, folder: Path) -> None:
    """The folder of a model with as many layers as the row's, and the weights of a deeper one."""
    folder.mkdir(parents=True)
    for path in weights.resolve().iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(row.config), encoding="utf-8")


def write_data(letters: int, longest: int, page: Path) -> None:
    """Documents of varying length with so many letters in all."""
    lot = random.Random(0)
    with page.open("w", encoding="utf-8") as file:
        while letters > 0:
            length = min(longest, max(32, round(lot.lognormvariate(0, SIGMA) * MEDIAN_DOCUMENT)))
            answer = "".join(lot.choices("abcdefghijklmnop ", k=length))
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
            letters -= length


def option(row: Row, name: str) -> str:
    """The value of a row's argument."""
    return row.argv[row.argv.index(f"--{name}") + 1]


def command(row: Row, folder: Path, **more: Any) -> list[str]:
    """The words that train a row: those of the planner, with the site's and the test's."""
    own = {
        "model": folder / "model",
        "model_type": row.model_type,
        "template": row.template,
        "dataset": folder / "train.jsonl",
        "output_dir": folder / "output",
        "train_iters": row.steps,
        "save_steps": row.steps,
        "external_plugins": PLUGIN,
        "callbacks": "memory",
        **more,
    }
    words = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    kept = True
    for word in row.argv:
        if word.startswith("--"):
            kept = word[2:] not in NOT_OF_A_TEST
        if kept:
            words.append(word)
    return ["megatron", "sft", *words]


def start(
    words: list[str], folder: Path, port: int, environment: Mapping[str, str] = {}
) -> list[subprocess.Popen[bytes]]:
    """The processes of a run's ranks."""
    processes = []
    for rank in range(RANKS):
        node = {
            "NNODES": str(RANKS),
            "NPROC_PER_NODE": "1",
            "NODE_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "CUDA_VISIBLE_DEVICES": "0",
            "NCCL_HOSTID": f"{folder.name}-{rank}",
            "NCCL_SOCKET_IFNAME": "lo",
            "GLOO_SOCKET_IFNAME": "lo",
            "MODELSCOPE_CACHE": str(folder / "cache"),
            "HF_DATASETS_CACHE": str(folder / "datasets"),
        }
        with (folder / f"log{rank}.txt").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    words,
                    env={**os.environ, **node, **environment},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    return processes


def wait(processes: list[subprocess.Popen[bytes]], deadline: float) -> list[int | None]:
    """Exit statuses; at the deadline, or when a rank has failed, the others are ended."""
    while time.time() < deadline:
        statuses = [process.poll() for process in processes]
        if None not in statuses or any(statuses):
            break
        time.sleep(0.5)
    statuses = [process.poll() for process in processes]
    end(processes)
    return statuses


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the processes that have not ended, gently at first."""
    for process in processes:  # torchrun hands it on to its worker, which is in another group
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def lines(page: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; none where there is no file."""
    return [json.loads(line) for line in page.read_text().splitlines()] if page.exists() else []


def gathered(row: Row, folder: Path) -> dict[str, Any]:
    """What a run's ranks wrote, step by step, and `memory(GiB)` of ms-swift's log."""
    logged = [line for line in lines(folder / "output" / "logging.jsonl") if "iteration" in line]
    return {
        "id": row.id,
        "stack": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "date": date.today().isoformat(),
        "logged_memory_gib": [line["memory(GiB)"] for line in logged],
        "first_loss": logged[0].get("loss") if logged else None,
        "ranks": [lines(folder / "output" / f"rank{rank}.jsonl") for rank in range(RANKS)],
    }


def train(rows: Iterable[Row], weights: Path, results: Path, deadline: float, port: int) -> None:
    """Train one after the other."""
    for row in rows:
        port += 1
        began = time.time()
        if deadline - began < LEAST_SECONDS:
            print(f"{row.id}: no time left", flush=True)
            continue
        folder = results.parent / "work" / row.id
        shutil.rmtree(folder, ignore_errors=True)
        write_model(row, weights, folder / "model")
        longest = int(option(row, "max_length"))
        letters = row.steps * int(option(row, "global_batch_size")) * longest
        write_data(letters * 11 // 10, longest - TEMPLATE_TOKENS, folder / "train.jsonl")
        words = command(row, folder)
        print(f"{row.id}: {' '.join(words)}", flush=True)
        statuses = wait(start(words, folder, port), deadline - KILL_SECONDS)
        seconds = round(time.time() - began, 1)
        found = gathered(row, folder) | {"statuses": statuses, "seconds": seconds}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        steps = [len(rank) - 1 for rank in found["ranks"]]
        print(f"{row.id}: statuses {statuses}, steps {steps}, {seconds} s", flush=True)


def main(rows_page: str, weights: str, results: str, seconds: str) -> None:
    """Train all rows: the longest beside the others."""
    deadline = time.time() + float(seconds)
    rows = [Row.from_json(line) for line in Path(rows_page).read_text().splitlines()]
    longest = max(rows, key=lambda row: row.steps)
    lanes = [[row for row in rows if row is not longest], [longest]]
    with ThreadPoolExecutor() as pool:
        done = [
            pool.submit(
                train, lane, Path(weights), Path(results), deadline, FIRST_PORT + 20 * number
            )
            for number, lane in enumerate(lanes)
        ]
        for lane_done in done:
            lane_done.result()


if __name__ == "__main__":
    main(*sys.argv[1:])
