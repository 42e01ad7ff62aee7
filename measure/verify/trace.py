"""The largest tensors at a step's peak, from the allocator's own history."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

LISTED = 70  # call sites
SMALLEST = 2**21  # bytes of a call site that is listed
FRAMES = 3  # of the stack, in the packages that allocate
PACKAGES = ("megatron/core", "transformer_engine", "mcore_bridge", "swift/megatron", "peft")

Event = dict[str, Any]


def largest_at_peak(step: Callable[[], Any]) -> dict[str, Any]:
    """What `step` had allocated at its peak, by call site, and what it left allocated.

    Bytes and numbers of tensors; what was allocated before is `base`. Tensors of before that the
    step freed are in `base` until then.
    """
    torch.cuda.synchronize()
    base = torch.cuda.memory_allocated()
    torch.cuda.memory._record_memory_history(context="alloc", stacks="python")
    try:
        step()
        torch.cuda.synchronize()
        events = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    peak, live_at_peak, live_at_end = _replay(events)
    return {
        "base": base,
        "peak": base + peak,
        "at_peak": _by_call_site(live_at_peak),
        "left": _by_call_site(live_at_end),
    }


def _replay(events: list[Event]) -> tuple[int, list[Event], list[Event]]:
    """Highest sum of bytes over what was there before, and what lives then and at the end."""
    total = peak = place = 0
    for number, event in enumerate(events):
        total += _change(event)
        if total > peak:
            peak, place = total, number
    return peak, _living(events[: place + 1]), _living(events)


def _change(event: Event) -> int:
    signs = {"alloc": 1, "free_completed": -1}
    return int(signs.get(event["action"], 0) * event["size"])


def _living(events: list[Event]) -> list[Event]:
    live: dict[int, Event] = {}
    for event in events:
        if event["action"] == "alloc":
            live[event["addr"]] = event
        elif event["action"] == "free_completed":
            live.pop(event["addr"], None)
    return list(live.values())


def _by_call_site(events: list[Event]) -> list[tuple[int, int, str]]:
    """Bytes, number and call site, the largest first."""
    groups: dict[str, list[int]] = defaultdict(list)
    for event in events:
        groups[_call_site(event["frames"])].append(event["size"])
    rows = sorted(((sum(sizes), len(sizes), site) for site, sizes in groups.items()), reverse=True)
    return [row for row in rows[:LISTED] if row[0] >= SMALLEST]


def _call_site(frames: list[Event]) -> str:
    """The innermost frames in the stack's packages, else the innermost of all."""
    inside = [frame for frame in frames if any(name in frame["filename"] for name in PACKAGES)]
    return " < ".join(_short(frame) for frame in (inside or frames)[:FRAMES])


def _short(frame: Event) -> str:
    path = frame["filename"].split("site-packages/")[-1].split("/site/")[-1]
    return f"{path}:{frame['line']}:{frame['name']}"
