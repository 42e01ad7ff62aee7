"""What ranks of real runs allocated while they loaded weights and saved checkpoints."""

import json
from collections.abc import Iterator

from predict import FOLDER, results

from planner.units import GIB

TEXT = """
## Loading and saving

Two real runs of `megatron sft`, each of two ranks that share an H200 (`save_run.py`): they load
Hugging Face weights, train two steps and save a checkpoint with the optimizer's states, which took
37 and 40 s while every allocation was recorded. Peaks of allocated memory, in GiB; predicted
before anything was measured (`first_look_save.jsonl`). They were cut off before they resumed, and
the third run, of LoRA, before it began.

| run | rank | while | predicted / measured |
| --- | --- | --- | --- |
"""
MOMENTS = {"load_weights": "loading weights", "save_mcore_checkpoint": "saving a checkpoint"}


def pairs() -> Iterator[tuple[str, int, str, int, int]]:
    """Run, rank, call, and the bytes that were predicted and measured of it."""
    lines = (FOLDER / "first_look_save.jsonl").read_text(encoding="utf-8").splitlines()
    predicted = {
        (each["id"], each["rank"], each["call"]): each["peak_allocated"]
        for each in map(json.loads, lines)
    }
    for run in results("save_h200.jsonl").values():
        for rank, events in enumerate(run["save"]["ranks"]):
            for event in events:
                key = (run["id"], rank, event["event"])
                if event["event"] in MOMENTS:
                    yield *key, predicted[key], event["after"]["peak_allocated"]


def section() -> Iterator[str]:
    """The lines of the page."""
    yield TEXT.rstrip("\n")
    for run, rank, call, predicted, measured in pairs():
        sizes = f"{predicted / GIB:.2f} / {measured / GIB:.2f} ({predicted / measured - 1:+.2%})"
        yield f"| {run} | {rank} | {MOMENTS[call]} | {sizes} |"
