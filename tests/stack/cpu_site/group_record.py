"""Writes down which process groups a worker speaks in: what NCCL makes a communicator for.

With MOE_PLANNER_RECORD_GROUPS=FOLDER in the environment each worker of `sitecustomize` writes
FOLDER/groups<rank>.json when it ends: a list of groups, each with its description, its ranks,
whether the caller asked for gloo, and how often each function spoke in it. Functions that call one
another count as the outer one.
"""

import atexit
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

COLLECTIVES = (
    "all_gather",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "_all_gather_base",
    "all_gather_object",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "_reduce_scatter_base",
    "scatter",
    "scatter_object_list",
    "batch_isend_irecv",
    "isend",
    "irecv",
    "send",
    "recv",
)

asked_for_gloo: set[int] = set()
_spoken: dict[Any, Counter[str]] = defaultdict(Counter)
_ranks: dict[Any, list[int]] = {}  # asked for while the group exists
_inside = False


def _group_of(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if name == "batch_isend_irecv":
        return args[0][0].group
    given = [value for value in (*args, *options.values()) if isinstance(value, dist.ProcessGroup)]
    return given[0] if given else dist.group.WORLD


def _recorded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def record(*args: Any, **options: Any) -> Any:
        global _inside
        if _inside:
            return call(*args, **options)
        _inside = True
        try:
            group = _group_of(name, args, options) or dist.group.WORLD
            _spoken[group][name] += 1
            _ranks[group] = dist.get_process_group_ranks(group)
            return call(*args, **options)
        finally:
            _inside = False

    return record


def _write(folder: Path) -> None:
    groups = [
        {
            "name": group.group_desc,
            "ranks": _ranks[group],
            "gloo": id(group) in asked_for_gloo,
            "calls": dict(calls),
        }
        for group, calls in _spoken.items()
    ]
    page = folder / f"groups{os.environ['RANK']}.json"
    page.write_text(json.dumps(groups), encoding="utf-8")


def install(folder: Path) -> None:
    """Record from now on."""
    for name in COLLECTIVES:
        record = _recorded(name, getattr(distributed_c10d, name))
        setattr(distributed_c10d, name, record)
        if hasattr(dist, name):
            setattr(dist, name, record)
    atexit.register(_write, folder)
