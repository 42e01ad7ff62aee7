"""Runs `megatron sft` on the two GPUs of this machine for the layouts of two_gpus.jsonl.

    python benchmarks/steptime/two_gpus_run.py MODEL_FOLDER RESULTS SECONDS [ONLY]

MODEL_FOLDER has a tokenizer and no weights that matter. Rounds follow one another, each with every
layout once in an order of its own by lot, so that a machine that slows down slows all of them. What
RESULTS has already of such GPUs is not run again: several calls make three rounds together. It gets
a JSON line a run. ONLY runs the entries whose id begins so.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sft_run import (
    PACKAGES,
    TEMPLATE_TOKENS,
    command,
    lines,
    option,
    wait,
    write_data,
    write_model,
)
from two_gpus import GPUS, Entry, listed

from launch.training_log import intervals, read_steps

ROUNDS = 3
LEAST_SECONDS = 90  # a run that has less is not begun
MOST_SECONDS = 240  # of a run; a longer one hangs
TRIES = 2  # of an entry and round
PORT = 29711
PLUGIN = Path(__file__).with_name("two_gpus_plugin.py")
OF_A_TEST = {"external_plugins": PLUGIN, "callbacks": "nothing_saved"}
LAST_LINES = 40  # of the log of a run that failed


def run(entry: Entry, models: Path, folder: Path, deadline: float) -> dict[str, Any]:
    """Train an entry; seconds of its steps but the first, and what ended it."""
    shutil.rmtree(folder, ignore_errors=True)
    write_model(entry.row, models, folder / "model")
    longest = int(option(entry.row, "max_length"))
    letters = entry.row.steps * int(option(entry.row, "global_batch_size")) * longest
    write_data(letters * 11 // 10, longest - TEMPLATE_TOKENS, folder / "train.jsonl")
    node = {
        "NNODES": "1",
        "NPROC_PER_NODE": str(GPUS),
        "MASTER_PORT": str(PORT),
        "MODELSCOPE_CACHE": str(folder / "cache"),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
    }
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command(entry.row, folder, **OF_A_TEST),
            env=os.environ | node,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (status,) = wait([process], min(deadline, time.time() + MOST_SECONDS))
    return {"status": status, **read(folder)}


def read(folder: Path) -> dict[str, Any]:
    """What a run logged; the end of what it printed where there is nothing."""
    page = folder / "output" / "logging.jsonl"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    steps = list(read_steps(text.splitlines()))
    if len(steps) < 2:
        printed = (folder / "log.txt").read_text(errors="replace").splitlines()
        return {"seconds": [], "printed": printed[-LAST_LINES:]}
    return {
        "seconds": [round(each.seconds, 6) for each in intervals(steps)],
        "reserved_bytes": max((step.memory_bytes or 0 for step in steps), default=0),
        "losses": [step.loss for step in steps],
    }


def machine() -> dict[str, Any]:
    """What the runs are of."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    except OSError:
        names = "none"
    return {
        "gpus": names.split("\n")[:GPUS],
        "stack": ", ".join(f"{name} {version(name)}" for name in PACKAGES if _has(name)),
        "date": date.today().isoformat(),
    }


def _has(name: str) -> bool:
    try:
        return bool(version(name))
    except ModuleNotFoundError:  # PackageNotFoundError is one
        return False


def to_do(results: list[dict[str, Any]], only: str) -> list[tuple[int, Entry]]:
    """Rounds and entries that are not done yet, in the order of running."""
    done = {(each["id"], each["round"]) for each in results if each["status"] == 0}
    tries = Counter((each["id"], each["round"]) for each in results)
    order = []
    for number in range(ROUNDS):
        entries = [each for each in listed() if each.row.id.startswith(only)]
        random.Random(number).shuffle(entries)
        order += [(number, each) for each in entries]
    return [
        (number, each)
        for number, each in order
        if (each.row.id, number) not in done and tries[each.row.id, number] < TRIES
    ]


def main(models: str, results: str, seconds: str, only: str = "") -> None:
    """Run what is not done, as long as there is time."""
    deadline, page = time.time() + float(seconds), Path(results)
    about = machine()
    done = [each for each in lines(page) if each["gpus"] == about["gpus"]]
    for number, entry in to_do(done, only):
        began = time.time()
        if deadline - began < LEAST_SECONDS:
            print("no time left", flush=True)
            break
        found = run(entry, Path(models), page.parent / "work" / entry.row.id, deadline)
        took = round(time.time() - began, 1)
        content = {"id": entry.row.id, "round": number, **found, **about, "took": took}
        if found["status"] is None and deadline - time.time() < LEAST_SECONDS:
            break  # cut off by the end, not by itself
        with page.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
        shown = [round(each, 3) for each in found["seconds"]]
        print(f"{entry.row.id} round {number}: {found['status']}, {shown}, {took} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
