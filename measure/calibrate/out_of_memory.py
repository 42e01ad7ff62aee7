"""Reads the error of a GPU whose memory ran out: how much was missing, on which rank, and when.

The sentences are torch's (2.1 to 2.11, c10/cuda/CUDACachingAllocator.cpp); frames are those of
ms-swift 3.12 to 4.6, mcore-bridge 1.6 and megatron-core 0.15 to 0.19.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from planner.units import GIB, KIB, MIB

MOST_FRAMES = 400  # of one traceback
SHOWN_FRAMES = 3

_UNITS = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_SIZE = r"(\d{1,9}(?:\.\d{1,9})?) (bytes|KiB|MiB|GiB)"
_RANK = re.compile(r"^\s*\[(?:default|rank)?(\d{1,6})\]:\s?")
_FRAME = re.compile(r'^\s*File "([^"]{1,4096})", line \d+, in (\S+)')
_ERROR = re.compile(r"torch\.(?:cuda\.)?OutOfMemoryError: |^RuntimeError: CUDA out of memory")
_GPU = re.compile(r"GPU (\d{1,4})\b")
_SENTENCES = {
    "tried_bytes": re.compile(rf"Tried to allocate {_SIZE}"),
    "capacity_bytes": re.compile(rf"total capaci?ty of {_SIZE}|{_SIZE} total capacity"),
    "free_bytes": re.compile(rf"of which {_SIZE} is free|{_SIZE} free"),
    "allocated_bytes": re.compile(rf"{_SIZE} is allocated by PyTorch|{_SIZE} already allocated"),
    "unallocated_bytes": re.compile(rf"{_SIZE} is reserved by PyTorch but unallocated"),
    "reserved_bytes": re.compile(rf"{_SIZE} reserved in total by PyTorch"),
}


class When(StrEnum):
    """What a rank was doing."""

    SAVING = "saving"
    LOADING = "loading"
    RESUMING = "resuming"
    EVALUATING = "evaluating"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    LOSS = "loss"
    FORWARD = "forward"
    BUILDING = "building"
    UNKNOWN = "unknown"


# Functions that are met at each moment, the moments that others are part of last: saving runs
# forward code, and a backward pass with recomputation forward passes.
_FUNCTIONS = {
    When.SAVING: {"save_checkpoint", "save_mcore_checkpoint", "save_weights"},
    When.LOADING: {"load_weights"},  # of Hugging Face, before the optimizer is made
    When.RESUMING: {"load_checkpoint", "load_mcore_checkpoint", "_load_checkpoint"},  # after it
    When.EVALUATING: {"evaluate"},
    When.BACKWARD: {"backward_step", "_engine_run_backward"},
    When.OPTIMIZER: {"step", "step_with_ready_grads", "prepare_grads", "clip_grad_norm"},
    When.LOSS: {"compute_language_model_loss", "fused_vocab_parallel_cross_entropy"},
    When.FORWARD: {"forward_step", "forward"},
    When.BUILDING: {
        "prepare_model",
        "get_optimizer_and_scheduler",
        "get_megatron_optimizer",
        "get_model",
        "build_module",
        "setup_model_and_optimizer",
    },
}
# Below a backward pass: checkpointed layers, or modules whose output was given up.
_FORWARD_AGAIN = {"forward", "custom_forward", "_recompute"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """One error; None where it does not say."""

    rank: int | None
    gpu: int | None  # of its host
    when: When
    recomputing: bool  # in a backward pass: a forward pass again
    frames: tuple[str, ...]  # the innermost, file:function
    tried_bytes: float | None
    capacity_bytes: float | None
    free_bytes: float | None
    allocated_bytes: float | None
    unallocated_bytes: float | None  # reserved, but in pieces that do not fit

    @property
    def needed_bytes(self) -> float | None:
        """What the GPU held for everybody and what was asked for: the least that was needed."""
        if self.tried_bytes is None or self.capacity_bytes is None or self.free_bytes is None:
            return None
        return self.capacity_bytes - self.free_bytes + self.tried_bytes


@dataclass(slots=True)
class Trace:
    """Tracebacks of all ranks as their lines come, and the first that ends with such an error."""

    found: OutOfMemory | None = None
    _frames: dict[int | None, list[tuple[str, str]]] = field(default_factory=dict)

    def look(self, line: str) -> None:
        """Look at the next line of a log."""
        if self.found is not None:
            return
        prefix = _RANK.match(line)
        rank = int(prefix[1]) if prefix else None
        rest = line[prefix.end() :] if prefix else line
        if rest.lstrip().startswith("Traceback (most recent call last)"):
            self._frames[rank] = []
            return
        frame = _FRAME.match(rest)
        if frame:
            frames = self._frames.setdefault(rank, [])
            if len(frames) < MOST_FRAMES:
                frames.append((frame[1], frame[2]))
        elif _ERROR.search(rest):
            self.found = _read(rest, rank, self._frames.get(rank, []))


def _read(text: str, rank: int | None, frames: list[tuple[str, str]]) -> OutOfMemory:
    sizes = {name: _size(pattern, text) for name, pattern in _SENTENCES.items()}
    reserved = sizes.pop("reserved_bytes")
    if sizes["unallocated_bytes"] is None and reserved is not None and sizes["allocated_bytes"]:
        sizes["unallocated_bytes"] = max(0.0, reserved - sizes["allocated_bytes"])
    gpu = _GPU.search(text)
    when = _when(frames)
    functions = {function for _, function in frames}
    return OutOfMemory(
        rank=rank,
        gpu=int(gpu[1]) if gpu else None,
        when=when,
        recomputing=when is When.BACKWARD and bool(functions & _FORWARD_AGAIN),
        frames=tuple(f"{_short(file)}:{function}" for file, function in frames[-SHOWN_FRAMES:]),
        **sizes,
    )


def _size(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.search(text)
    if found is None:
        return None
    number, unit = (group for group in found.groups() if group is not None)
    return float(number) * _UNITS[unit]


def _when(frames: list[tuple[str, str]]) -> When:
    functions = {function for file, function in frames if function != "step"}
    if any(function == "step" and "optim" in file for file, function in frames):
        functions.add("step")
    return next((when for when, names in _FUNCTIONS.items() if names & functions), When.UNKNOWN)


def _short(file: str) -> str:
    """A file from its package on."""
    return file.replace("\\", "/").rpartition("site-packages/")[2][-80:]
