"""Trains, saves and resumes rows of save.jsonl with two ranks on one GPU, and gathers memory.

    python benchmarks/memory/save_run.py ROWS WEIGHTS RESULTS SECONDS

As `sft_run.py`, but that the run is saved after its last step, and a second one resumes from there
and takes a step more. The first row goes beside the others, the last of which comes first: together
they take less than 120 GiB. What does not fit into SECONDS is left out.
"""

import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sft_run import (
    KILL_SECONDS,
    LEAST_SECONDS,
    PACKAGES,
    RANKS,
    TEMPLATE_TOKENS,
    command,
    lines,
    option,
    start,
    wait,
    write_data,
    write_model,
)

from measure.verify.row import Row

FIRST_PORT = 29711
PLUGIN = Path(__file__).with_name("save_plugin.py")
WATCHED = {"external_plugins": PLUGIN, "callbacks": "saving"}


def phases(row: Row, folder: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """The words and the environment of training with a save at the end, and of resuming."""
    saved = folder / "output" / f"checkpoint-{row.steps}"
    flag = "mcore_adapter" if option(row, "tuner_type") == "lora" else "mcore_model"
    more = {"train_iters": row.steps + 1, "output_dir": folder / "resumed", flag: saved}
    resumed = command(row, folder, **WATCHED, **more)
    resumed += ["--finetune", "false"]  # the last one counts
    return {
        "save": (command(row, folder, **WATCHED), {}),
        "resume": (resumed, {"SAVING_STEPS": str(row.steps + 1)}),
    }


def run(row: Row, folder: Path, deadline: float, port: int) -> dict[str, Any]:
    """What the ranks wrote in each phase; the second is left out where the first one failed."""
    found: dict[str, Any] = {"id": row.id, "date": date.today().isoformat()}
    found["stack"] = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    for place, (phase, (words, environment)) in enumerate(phases(row, folder).items()):
        if deadline - time.time() < LEAST_SECONDS:
            break
        pages = folder / phase
        pages.mkdir()
        print(f"{row.id} {phase}: {' '.join(words)}", flush=True)
        began = time.time()
        environment["SAVING_PAGES"] = str(pages)
        statuses = wait(start(words, folder, port + place, environment), deadline - KILL_SECONDS)
        for rank in range(RANKS):
            (folder / f"log{rank}.txt").rename(pages / f"log{rank}.txt")
        ranks = [lines(pages / f"rank{rank}.jsonl") for rank in range(RANKS)]
        seconds = round(time.time() - began, 1)
        found[phase] = {"statuses": statuses, "seconds": seconds, "ranks": ranks}
        print(f"{row.id} {phase}: statuses {statuses}, {seconds} s", flush=True)
        if any(statuses):
            break
    return found


def prepared(row: Row, weights: Path, folder: Path) -> Path:
    """A new folder with the row's model and data."""
    shutil.rmtree(folder, ignore_errors=True)
    write_model(row, weights, folder / "model")
    longest = int(option(row, "max_length"))
    letters = (row.steps + 2) * int(option(row, "global_batch_size")) * longest
    write_data(letters * 11 // 10, longest - TEMPLATE_TOKENS, folder / "train.jsonl")
    return folder


def main(rows_page: str, weights: str, results: str, seconds: str) -> None:
    """Run all rows in two lanes, and write what they found as it comes."""
    deadline = time.time() + float(seconds)
    rows = [Row.from_json(line) for line in Path(rows_page).read_text().splitlines()]
    work = Path(results).parent / "work"

    def lane(mine: list[Row], port: int) -> None:
        for place, row in enumerate(mine):
            if deadline - time.time() < LEAST_SECONDS:
                print(f"{row.id}: no time left", flush=True)
                continue
            folder = prepared(row, Path(weights), work / row.id)
            found = run(row, folder, deadline, port + 10 * place)
            with Path(results).open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            shutil.rmtree(folder / "output", ignore_errors=True)

    with ThreadPoolExecutor() as pool:
        lanes = enumerate((rows[:1], rows[:0:-1]))
        for done in [pool.submit(lane, mine, FIRST_PORT + 100 * place) for place, mine in lanes]:
            done.result()


if __name__ == "__main__":
    main(*sys.argv[1:])
