"""Times what it takes to run modules again, in one model whose modules take turns at it.

Megatron-Core decides when it builds a layer what is recomputed, and keeps it in attributes. They
are switched between steps, so that a host that slows down slows all choices alike: each round has a
step of every choice, in an order by lot.
"""

import functools
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from layers import build, forget, step
from marks import Marks
from recompute_choices import AGAIN, FULL, NOTHING

from measure.verify import peers
from measure.verify.row import Row

COLD = 2  # steps of each choice before any is timed

# Attributes of modules by what is recomputed (megatron-core 0.18.1: transformer_layer.py:434-503,
# attention.py:373, multi_latent_attention.py:171, moe/moe_layer.py:246-254, moe/experts.py:253).
SWITCHES = {
    "layernorm": ("recompute_input_layernorm", "recompute_pre_mlp_layernorm"),
    "mlp": ("recompute_mlp",),
    "moe": ("moe_layer_recompute",),
    "shared_experts": ("shared_experts_recompute",),
    "moe_act": ("activation_recompute",),
    "core_attn": ("checkpoint_core_attention",),
    "mla_up_proj": ("recompute_up_proj",),
}
NORMS = {
    "recompute_input_layernorm": "input_layernorm",
    "recompute_pre_mlp_layernorm": "pre_mlp_layernorm",
}


def switch(models: Sequence[Any], choice: str) -> int:
    """Let the models recompute a choice: "none", "full", or modules with spaces between. Returns
    how many attributes say so."""
    wanted = choice.split() if choice not in (NOTHING, AGAIN, FULL) else []
    number = 0
    for module in (module for model in models for module in model.modules()):
        for name, attributes in SWITCHES.items():
            for attribute in attributes:
                if isinstance(getattr(module, attribute, None), bool):
                    on = name in wanted and _can(module, attribute)
                    setattr(module, attribute, on)
                    number += on
    for config in {id(c): c for model in models for c in _configs(model)}.values():
        full = choice == FULL
        config.recompute_granularity = "full" if full else None
        config.recompute_method = "uniform" if full else None
        config.recompute_num_layers = 1 if full else None
        number += full
    return number


def _configs(model: Any) -> Iterator[Any]:
    for module in model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "recompute_granularity"):
            yield config


def _can(module: Any, attribute: str) -> bool:
    """As Megatron-Core asks: norms that are no identity, feed-forward parts that are dense."""
    if attribute == "recompute_mlp":
        return not module.is_moe_layer
    norm = NORMS.get(attribute)
    return norm is None or type(getattr(module, norm)).__name__ != "IdentityOp"


class Timers:
    """Host seconds of what recomputes, by what it is: see `timed`."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, started: float) -> None:
        """Count a call that began then."""
        self._seconds[name].append(time.perf_counter() - started)

    def take(self) -> dict[str, tuple[int, float]]:
        """How often each was called since the last time, and the seconds of all calls."""
        found = {name: (len(each), sum(each)) for name, each in self._seconds.items()}
        self._seconds.clear()
        return found


@contextmanager
def timed(timers: Timers) -> Iterator[None]:
    """Time Megatron-Core's two ways to recompute.

    `first` and `again` are calls of what is recomputed, forward and backward; `save` and `restore`
    hold them where the output is given up too, with random states; `unwind` is the backward pass
    of the other way, with the pass of what it recomputed.
    """
    from megatron.core.tensor_parallel import random as checkpoints

    lean, whole = checkpoints.CheckpointWithoutOutput, checkpoints.CheckpointFunction
    kept = lean.checkpoint, lean._recompute, whole.forward, whole.backward

    def checkpoint(self: Any, run_function: Callable[..., Any], *args: Any) -> Any:
        started = time.perf_counter()
        answer = kept[0](self, _twice(run_function, timers), *args)
        timers.add("save", started)
        return answer

    def recompute(self: Any, gradient: Any) -> None:
        started = time.perf_counter()
        kept[1](self, gradient)
        timers.add("restore", started)

    def forward(ctx: Any, run_function: Callable[..., Any], distribute: bool, *args: Any) -> Any:
        started = time.perf_counter()
        answer = kept[2](ctx, _twice(run_function, timers), distribute, *args)
        timers.add("save", started)
        return answer

    def backward(ctx: Any, *args: Any) -> Any:
        started = time.perf_counter()
        answer = kept[3](ctx, *args)
        timers.add("unwind", started)
        return answer

    lean.checkpoint, lean._recompute = checkpoint, recompute
    whole.forward, whole.backward = staticmethod(forward), staticmethod(backward)
    try:
        yield
    finally:
        lean.checkpoint, lean._recompute = kept[:2]
        whole.forward, whole.backward = staticmethod(kept[2]), staticmethod(kept[3])


def _twice(function: Callable[..., Any], timers: Timers) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        name = "again" if torch.is_grad_enabled() else "first"
        started = time.perf_counter()
        answer = function(*args)
        timers.add(name, started)
        return answer

    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What is measured of a model: packs of `tokens` in one document."""

    tokens: int
    choices: tuple[str, ...]
    number: int


def measure(row: Row, rounds: Sequence[Rounds], end: float) -> Iterator[dict[str, Any]]:
    """A result of each of the rounds and choices, until then; the world is entered here."""
    peers.enter_world(row.world_size, row.rank)
    with tempfile.TemporaryDirectory() as folder:
        trainer, marks = build(row, Path(folder))
        try:
            for each in rounds:
                yield from _rounds(row, trainer, marks, each, end)
        finally:
            forget(trainer)


def _rounds(
    row: Row, trainer: Any, marks: Marks, rounds: Rounds, end: float
) -> Iterator[dict[str, Any]]:
    from measure.verify import run

    trainer.args.seq_length = rounds.tokens
    data = run.feed(replace(row, documents_per_pack=1), trainer)
    models, timers = trainer.unwrapped_models, Timers()
    results = {choice: _Result() for choice in rounds.choices}
    one = functools.partial(_one, trainer, data, marks, timers)
    with timed(timers):
        for choice in rounds.choices:
            results[choice].switched = switch(models, choice)
            for _ in range(COLD):
                one(marked=False)
        lot = random.Random(0)
        for number in range(rounds.number):
            order = list(rounds.choices)
            lot.shuffle(order)
            for choice in order:
                if time.monotonic() > end:
                    break
                switch(models, choice)
                results[choice].add(one(marked=number % 2 == 1))
    switch(models, NOTHING)
    for choice, result in results.items():
        yield {
            "id": row.id,
            "tokens": rounds.tokens,
            "num_microbatches": trainer.args.num_microbatches,
            "recompute": choice,
            **result.summary(),
        }


def _one(trainer: Any, data: Any, marks: Marks, timers: Timers, *, marked: bool) -> dict[str, Any]:
    """What was measured of one step."""
    timers.take()
    marks.kind = "timed" if marked else "off"
    seconds = step(trainer, data, marks)
    marks.kind = "off"
    found: dict[str, Any] = {"timers": timers.take()}
    if marked:
        passes = marks.passes()
        return found | {"passes": passes, "segments": marks.segments()}
    return found | {"seconds": seconds}


class _Result:
    """Steps of one choice."""

    def __init__(self) -> None:
        self.switched = 0
        self._steps: list[dict[str, Any]] = []

    def add(self, one: dict[str, Any]) -> None:
        self._steps.append(one)

    def summary(self) -> dict[str, Any]:
        """Seconds of each step; of passes (forward and backward of a microbatch, on host and
        device), segments and timers the medians."""
        marked = [each for each in self._steps if "passes" in each]
        plain = [each for each in self._steps if "seconds" in each]
        return {
            "attributes_switched": self.switched,
            "step_seconds": [each["seconds"] for each in plain],
            "pass_seconds": [each["passes"] for each in marked],
            "segments": _medians([each["segments"] for each in marked]),
            "calls_in_a_step": _medians([each["timers"] for each in plain]),
        }


def _medians(found: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Of rows by name, the medians in each column."""
    names = {name for each in found for name in each}
    return {
        name: [
            median(column) for column in zip(*(e[name] for e in found if name in e), strict=True)
        ]
        for name in sorted(names)
    }
