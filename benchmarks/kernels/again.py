"""What the host takes to run modules again, read off the parts of real models that were timed.

    python benchmarks/kernels/again.py

prints the numbers under `again` of planner/data/kernels/host.yaml; a test holds the two together.
None of the models recomputed anything: a module that is run again does what it did forward, and
`checkpoints_cpu.json` (checkpoints.py) says what keeping and restoring take beside it.
"""

import json
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
LAYERS = HERE / "layers_h100.jsonl"
CHECKPOINTS = HERE / "checkpoints_cpu.json"
LAYER, ATTENTION = "0.decoder.layers.", ".self_attention"
CONTEXT_PARALLEL, LATENT = "Llama-3.1-8B-tp2-cp2", "Moonlight-16B-A3B-ep8"
DENSE = ("Llama-3.1-8B", LATENT)  # dense layers without tensor parallelism
MILLI, MICRO = 1e3, 1e-3
HOST = 1  # of a segment: how often, seconds of the host, of the device


@cache
def rows() -> list[dict[str, Any]]:
    """All that was timed."""
    return [json.loads(line) for line in LAYERS.read_text(encoding="utf-8").splitlines()]


def _segments(row: dict[str, Any], begin: str, end: str) -> dict[str, float]:
    """Milliseconds of the host between two marks of a layer, by layer."""
    found = {}
    for name, segment in row["segments"].items():
        one, other = name.split("|")
        layer = one.removeprefix(LAYER).partition(".")[0].rstrip(">")
        if (one, other) == (f"{LAYER}{layer}{begin}", f"{LAYER}{layer}{end}"):
            found[layer] = segment[HOST] * MILLI
    return found


def norms() -> list[float]:
    """Norms that are no part of a product: the one after all layers."""
    name = "0.decoder.final_layernorm"
    return [row["segments"][f"{name}>|{name}<"][HOST] * MILLI for row in rows()]


def cores() -> list[float]:
    """Core attention, without context parallelism."""
    core = f"{ATTENTION}.core_attention"
    plain = [row for row in rows() if row["id"] != CONTEXT_PARALLEL]
    return [each for row in plain for each in _segments(row, f"{core}>", f"{core}<").values()]


def up_projections() -> list[float]:
    """MLA between its beginning and core attention, but for one projection down, which takes what
    the one behind core attention does."""
    core, found = f"{ATTENTION}.core_attention", []
    for row in rows():
        if row["id"] == LATENT:
            before = _segments(row, f"{ATTENTION}>", f"{core}>")
            product = _segments(row, f"{core}<", f"{ATTENTION}<")
            found += [before[layer] - product[layer] for layer in before]
    return found


def activations() -> list[float]:
    """A dense feed-forward part but for two products; the first has a norm in it."""
    core, found = f"{ATTENTION}.core_attention", []
    for row in rows():
        if row["id"] in DENSE:
            product = _segments(row, f"{core}<", f"{ATTENTION}<")
            part = _segments(row, ".mlp>", ".mlp<")
            found += [part[layer] - 2 * product[layer] for layer in part]
    return found


def again() -> dict[str, Any]:
    """What host.yaml has under `again`, in milliseconds."""
    checkpoints = json.loads(CHECKPOINTS.read_text(encoding="utf-8"))["microseconds"]
    plain = checkpoints["plain"]
    return {
        "norm": round(median(norms()), 2),
        "core": round(median(cores()), 1),
        "up_projections": round(median(up_projections()), 1),
        "activation": round(median(activations()), 2),
    } | {
        way: {each: round((took[each] - plain[each]) * MICRO, 2) for each in plain}
        for way, took in checkpoints.items()
        if way != "plain"
    }


if __name__ == "__main__":
    for name, found in again().items():
        print(f"{name}: {found}")
