"""Runs `megatron sft` on the two GPUs of this machine for the layouts of two_gpus.jsonl.

    python benchmarks/steptime/two_gpus_run.py MODEL_FOLDER RESULTS SECONDS [ONLY]

MODEL_FOLDER has a tokenizer and no weights that matter. Rounds follow one another, each with every
layout once in an order of its own by lot, so that a machine that slows down slows all of them. What
RESULTS has already of such GPUs is not run again: several calls make three rounds together. It gets
a JSON line a run. ONLY is a regular expression of the ids of the entries that are run. Ranks are
forked (`forked_ranks.py`): a run takes little more than its steps.
"""

import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from forked_ranks import import_stack, start, wait
from sft_run import (
    PACKAGES,
    TEMPLATE_TOKENS,
    command,
    lines,
    write_data,
    write_model,
)
from two_gpus import GLOBAL_BATCH_SIZE, GPUS, SEQ_LENGTH, STEPS, Entry, listed

from launch.training_log import intervals, read_steps

ROUNDS = 3
LEAST_SECONDS = 45  # a run that has less is not begun
MOST_SECONDS = 150  # of a run; a longer one hangs
TRIES = 2  # of an entry and round
FIRST_PORT = 29711
PLUGIN = Path(__file__).with_name("two_gpus_plugin.py")
OF_A_TEST = {"external_plugins": PLUGIN, "callbacks": "of_a_rank"}
LAST_LINES = 40  # of the log of a run that failed


def run(entry: Entry, models: Path, data: Path, folder: Path, port: int) -> dict[str, Any]:
    """Train an entry; seconds of its steps but the first, what its ranks say, what ended it."""
    shutil.rmtree(folder, ignore_errors=True)
    write_model(entry.row, models, folder / "model")
    words = command(entry.row, folder, dataset=data, **OF_A_TEST)
    processes = start(words[2:], GPUS, port, folder)
    statuses = wait(processes, time.time() + MOST_SECONDS)
    return {"status": _worst(statuses), **read(folder)}


def _worst(statuses: Sequence[int | None]) -> int | None:
    """0 of ranks that all ended well; None where one hung or was ended because another failed."""
    failed = [status for status in statuses if status]
    return failed[0] if failed else None if None in statuses else 0


def read(folder: Path) -> dict[str, Any]:
    """What a run logged; the end of what it printed where there is nothing."""
    page = folder / "output" / "logging.jsonl"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    steps = list(read_steps(text.splitlines()))
    ranks = [folder / "output" / f"rank{rank}.json" for rank in range(GPUS)]
    if len(steps) < 2 or not all(rank.exists() for rank in ranks):
        printed = [
            (folder / f"log{rank}.txt").read_text(errors="replace").splitlines()[-LAST_LINES:]
            for rank in range(GPUS)
        ]
        return {"seconds": [], "printed": printed}
    return {
        "seconds": [round(each.seconds, 6) for each in intervals(steps)],
        "reserved_bytes": max((step.memory_bytes or 0 for step in steps), default=0),
        "losses": [step.loss for step in steps],
        "ranks": [json.loads(rank.read_text(encoding="utf-8")) for rank in ranks],
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
        entries = [each for each in listed() if re.search(only, each.row.id)]
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
    work = page.parent / "work"
    work.mkdir(exist_ok=True)
    about = machine()
    done = [each for each in lines(page) if each["gpus"] == about["gpus"]]
    import_stack({name: str(work / name) for name in ("MODELSCOPE_CACHE", "HF_DATASETS_CACHE")})
    data = work / "train.jsonl"
    letters = STEPS * GLOBAL_BATCH_SIZE * SEQ_LENGTH
    write_data(letters * 11 // 10, SEQ_LENGTH - TEMPLATE_TOKENS, data)
    for number, (round_, entry) in enumerate(to_do(done, only)):
        began = time.time()
        if deadline - began < LEAST_SECONDS:
            print("no time left", flush=True)
            break
        found = run(entry, Path(models), data, work / entry.row.id, FIRST_PORT + number)
        took = round(time.time() - began, 1)
        content = {"id": entry.row.id, "round": round_, **found, **about, "took": took}
        with page.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
        shown = [round(each, 3) for each in found["seconds"]]
        print(f"{entry.row.id} round {round_}: {found['status']}, {shown}, {took} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
