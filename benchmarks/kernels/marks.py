"""Marks where a model's parts begin and end, forward and backward, without changing its graph."""

import itertools
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

PARTS = re.compile(
    r"(embedding|output_layer|decoder\.final_layernorm"
    r"|(decoder\.layers|mtp\.layers)\.\d+(\.transformer_layer|\.mtp_model_layer)?"
    r"(\.eh_proj|\.self_attention(\.core_attention)?|\.mlp(\.(router|experts|shared_experts))?)?)"
)
# Where a microbatch begins forward and backward, and what ends its backward pass but another one.
BORDERS = ("batch", "0.modelb>", "optimizer>")
TRACED = "mark "  # begins the name of a mark in a profiler's trace


class Marks:
    """Where the host and the device were when; a pair of neighbours is a segment.

    `kind` is "off", "timed" (host clock and device events) or "traced" (a profiler's annotations).
    """

    def __init__(self) -> None:
        self.kind = "off"
        self._marks: list[tuple[str, int, Any]] = []
        self._steps: list[list[tuple[str, int, Any]]] = []

    def __call__(self, name: str) -> None:
        """Mark this moment."""
        if self.kind == "timed":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, time.perf_counter_ns(), event))
        elif self.kind == "traced":
            with torch.autograd.profiler.record_function(TRACED + name):
                pass

    def end_step(self) -> None:
        """What is marked from here belongs to the next step."""
        self._steps.append(self._marks)
        self._marks = []

    def passes(self) -> dict[str, list[float]]:
        """Medians of the seconds of a microbatch forward and backward, on host and device: from its
        batch to the beginning of its backward pass, and on to the next batch or the optimizer."""
        torch.cuda.synchronize()
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for step in self._steps:
            borders = [mark for mark in step if mark[0] in BORDERS]
            for (one, start, event), (_, end, next_event) in itertools.pairwise(borders):
                if one in BORDERS[:2]:
                    seconds = (end - start) / 1e9, event.elapsed_time(next_event) / 1e3
                    found["forward" if one == BORDERS[0] else "backward"].append(seconds)
        return {name: list(map(median, zip(*each, strict=True))) for name, each in found.items()}

    def segments(self) -> dict[str, list[float]]:
        """Of each segment: how often it comes in a step, and the medians of its seconds on the host
        and between its marks on the device."""
        torch.cuda.synchronize()
        host, device = defaultdict(list), defaultdict(list)
        for step in self._steps:
            for (one, start, event), (other, end, next_event) in itertools.pairwise(step):
                host[f"{one}|{other}"].append((end - start) / 1e9)
                device[f"{one}|{other}"].append(event.elapsed_time(next_event) / 1e3)
        steps = max(1, len(self._steps))
        found = {
            name: [len(host[name]) / steps, median(host[name]), median(device[name])]
            for name in host
        }
        self._steps, self._marks = [], []
        return found


def attach(models: list[Any], mark: Marks) -> None:
    """Let each part of the models mark its beginning (`>`) and end (`<`), and those of its backward
    pass (`b>`, `b<`)."""
    for number, model in enumerate(models):
        for path, module in model.named_modules():
            if path == "" or PARTS.fullmatch(path):
                _attach(module, f"{number}.{path or 'model'}", mark)


def _attach(module: Any, name: str, mark: Marks) -> None:
    def begins(_: Any, args: Any, kwargs: Any) -> None:
        mark(f"{name}>")
        tensor = next(_tracked((*args, *kwargs.values())), None)
        if tensor is not None and mark.kind != "off":
            tensor.register_hook(lambda _: mark(f"{name}b<"))

    def ends(_: Any, __: Any, output: Any) -> None:
        mark(f"{name}<")
        tensor = next(_tracked(output if isinstance(output, tuple) else (output,)), None)
        if tensor is not None and mark.kind != "off":
            tensor.register_hook(lambda _: mark(f"{name}b>"))

    module.register_forward_pre_hook(begins, with_kwargs=True)
    module.register_forward_hook(ends)


def _tracked(things: Any) -> Iterator[torch.Tensor]:
    for thing in things:
        if torch.is_tensor(thing) and thing.grad_fn is not None:
            yield thing
