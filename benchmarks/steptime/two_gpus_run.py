"""Runs `megatron sft` on the two GPUs of this machine for the layouts of two_gpus.jsonl.

    python benchmarks/steptime/two_gpus_run.py MODEL_FOLDER RESULTS SECONDS [ONLY]

MODEL_FOLDER has a tokenizer and no weights that matter. Rounds follow one another, each with every
layout once in an order of its own by lot, so that a machine that slows down slows all of them. What
RESULTS has already of such GPUs is not run again: several calls make three rounds together. It gets
a JSON line a run. ONLY is a regular expression of the ids of the entries that are run.

One run trains at a time. While it does, the next one builds its model and those after it import the
stack (`turns.py`): starting takes longer than the steps that are measured.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sft_run import PACKAGES, TEMPLATE_TOKENS, command, end, lines, write_data, write_model
from turns import FOLDER, May, Said, all_said, allow, allowed
from two_gpus import GLOBAL_BATCH_SIZE, GPUS, SEQ_LENGTH, STEPS, Entry, listed

from launch.training_log import intervals, read_steps

ROUNDS = 3
AT_ONCE = 5  # runs that are starting or training
MOST_SECONDS = 300  # of a run, waiting included; a longer one hangs
TRIES = 2  # of an entry and round
MOST_FAILED = 4  # runs, more than ended well: something is wrong with all of them
FIRST_PORT = 29711
POLL_SECONDS = 0.05
RANK = Path(__file__).with_name("waiting_rank.py")
PLUGIN = Path(__file__).with_name("two_gpus_plugin.py")
OF_A_TEST = {"external_plugins": PLUGIN, "callbacks": "of_a_rank"}
LAST_LINES = 40  # of the log of a run that failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run that was started, and the time of that."""

    entry: Entry
    round: int
    folder: Path
    processes: tuple[subprocess.Popen[bytes], ...]
    began: float

    def said(self, what: Said) -> bool:
        """Whether all its ranks did."""
        return all_said(self.folder, what, GPUS)

    @property
    def statuses(self) -> list[int | None]:
        """Exit statuses of its ranks so far."""
        return [process.poll() for process in self.processes]

    @property
    def is_over(self) -> bool:
        """Whether all ranks have ended, one has failed, or it takes too long."""
        late = time.time() - self.began > MOST_SECONDS
        return None not in self.statuses or any(self.statuses) or late


def start(number: int, entry: Entry, *, port: int, models: Path, work: Path) -> Started:
    """Start the ranks of an entry, as torchrun would."""
    folder = work / f"{entry.row.id}-{number}"  # the next round may have begun
    shutil.rmtree(folder, ignore_errors=True)
    write_model(entry.row, models, folder / "model")
    words = command(entry.row, folder, dataset=work / "train.jsonl", **OF_A_TEST)[2:]
    processes = []
    for rank in range(GPUS):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": GPUS, "LOCAL_WORLD_SIZE": GPUS}
        own |= {"GROUP_RANK": 0, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        texts = {
            "MASTER_ADDR": "127.0.0.1",
            "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # as ms-swift's command sets it
            FOLDER: str(folder),
            "MODELSCOPE_CACHE": str(work / "cache"),
            "HF_DATASETS_CACHE": str(work / "datasets"),
        }
        with (folder / f"log{rank}.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(RANK), *words],
                env={**os.environ, **texts, **{name: str(value) for name, value in own.items()}},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.append(process)
    return Started(
        entry=entry, round=number, folder=folder, processes=tuple(processes), began=time.time()
    )


def give_turns(flying: Sequence[Started]) -> None:
    """Let the first run train, and the second build as soon as the first trains."""
    first = flying[0]
    allow(first.folder, May.BUILD)
    if first.said(Said.BUILT) and not allowed(first.folder, May.TRAIN):
        allow(first.folder, May.TRAIN)
    if allowed(first.folder, May.TRAIN) and len(flying) > 1:
        allow(flying[1].folder, May.BUILD)


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


def finish(run: Started, about: dict[str, Any], page: Path) -> bool:
    """End what is left of a run, write what came of it, and return whether it ended well.

    Its status is 0 where all ranks ended well, and None where one had to be ended.
    """
    statuses = run.statuses
    end(run.processes)
    failed = [status for status in statuses if status]
    status = failed[0] if failed else None if None in statuses else 0
    took = round(time.time() - run.began, 1)
    content = {"id": run.entry.row.id, "round": run.round, "status": status}
    content |= {**read(run.folder), **about, "took": took}
    with page.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
    shown = [round(each, 3) for each in content["seconds"]]
    print(f"{run.entry.row.id} round {run.round}: {status}, {shown}, {took} s", flush=True)
    return status == 0


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
    letters = STEPS * GLOBAL_BATCH_SIZE * SEQ_LENGTH
    write_data(letters * 11 // 10, SEQ_LENGTH - TEMPLATE_TOKENS, work / "train.jsonl")
    about = machine()
    waiting = to_do([each for each in lines(page) if each["gpus"] == about["gpus"]], only)
    begin = partial(start, models=Path(models), work=work)
    flying: list[Started] = []
    ending: list[Started] = []
    port, balance = FIRST_PORT, 0  # of runs that ended well
    while (waiting or flying or ending) and time.time() < deadline and balance > -MOST_FAILED:
        if waiting and len(flying) < AT_ONCE:
            flying.append(begin(*waiting.pop(0), port=port))
            port += 1
        if flying:
            give_turns(flying)
        ending += [run for run in flying if run.said(Said.TRAINED) or run.is_over]
        flying = [run for run in flying if run not in ending]
        for run in [run for run in ending if run.is_over]:
            balance += 1 if finish(run, about, page) else -1
            ending.remove(run)
        time.sleep(POLL_SECONDS)
    for run in flying + ending:
        end(run.processes)
    print(f"not run: {len(waiting) + len(flying) + len(ending)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
