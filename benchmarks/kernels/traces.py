"""Reads a profiler's trace: which kernels ran for which part, and for how long."""

import json
import re
from bisect import bisect_right
from collections import defaultdict
from pathlib import Path
from typing import Any

from marks import TRACED

DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
RUNTIME = {"cuda_runtime", "cuda_driver"}
NAME_LENGTH = 110
_NOISE = re.compile(r"void |at::native::|transformer_engine::|\(anonymous namespace\)::|std::")


def read(path: Path) -> dict[str, Any]:
    """Of each segment between two marks: seconds of the device (streams together, and each kernel
    with its number), launches, and the gaps between its kernels."""
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    marks = sorted(
        (event["ts"], event["name"][len(TRACED) :])
        for event in events
        if event.get("ph") == "X" and event.get("name", "").startswith(TRACED)
        and event.get("cat") in ("user_annotation", "cpu_op")
    )  # fmt: skip
    times = [time for time, _ in marks]
    launched = {
        event["args"]["correlation"]: event["ts"]
        for event in events
        if event.get("cat") in RUNTIME and "correlation" in event.get("args", {})
    }
    segments: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") in DEVICE and event["args"].get("correlation") in launched:
            place = bisect_right(times, launched[event["args"]["correlation"]])
            before = marks[place - 1][1] if place else ""
            after = marks[place][1] if place < len(marks) else ""
            segments[f"{before}|{after}"].append(event)
    return {name: _summary(found) for name, found in segments.items()}


def _summary(events: list[dict[str, Any]]) -> dict[str, Any]:
    kernels: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for event in events:
        kernel = kernels[_NOISE.sub("", event["name"])[:NAME_LENGTH]]
        kernel[0] += 1
        kernel[1] += event["dur"] / 1e6
    return {
        "busy": _covered([(event["ts"], event["ts"] + event["dur"]) for event in events]) / 1e6,
        "kernels": {name: [count, round(s, 9)] for name, (count, s) in kernels.items()},
    }


def _covered(spans: list[tuple[float, float]]) -> float:
    """The length that spans cover together."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
