"""Measures a row: builds its rank, trains a few steps, and reads memory at each moment."""

import json
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from measure.verify import fused_gradients, machine, peers, readings, release, routing, trace
from measure.verify.host_speed import HostSpeed
from measure.verify.row import Row

TRACED_SECONDS = 2.0  # a step that takes longer is not traced: tracing takes a multiple of it
MOST_LEFT_BYTES = 2**20  # after a row; more means that something was not given back
LONG_SECONDS = 1.0  # a warm step that takes longer is the last of those whose memory is read
TIMED_STEPS = 5  # after those, with nothing read in their midst

Result = dict[str, Any]


def prepare() -> None:
    """Do once what would else be counted to the first row: import the stack, and compile the
    extension by which Megatron-Core shares storages when it recomputes modules.

    It takes a minute, needs ninja and a C++ compiler, and leaves a lock if it is killed, for which
    later processes wait (megatron-core 0.18.1, tensor_parallel/random.py:65-75).
    """
    peers.enter_world(1, 0)
    fused_gradients.stand_in()
    from megatron.core.tensor_parallel import random

    if torch.cuda.is_available() and hasattr(random, "_get_share_storage"):
        random._get_share_storage()


def measure(
    row: Row, *, traced: bool = False, inspect: Callable[[Any], Any] | None = None
) -> Result:
    """What was measured of a row, or its `error`; the device's memory is given back.

    `traced` adds a step whose largest tensors at the peak are listed; `inspect` is asked about the
    trainer at the end, and its answer kept.
    """
    result: Result = {"id": row.id}
    started = time.monotonic()
    try:
        peers.enter_world(row.world_size, row.rank)
        with tempfile.TemporaryDirectory() as folder:
            _measure(row, Path(folder), result, traced, inspect)
        result["ok"] = True
    except (Exception, SystemExit) as error:  # the next row must go on, whatever happened to this
        result |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}
        result["where"] = traceback.format_exc()[-2500:]
        traceback.clear_frames(error.__traceback__)
    try:
        result |= _give_back()
    except RuntimeError as error:  # after an illegal access CUDA answers nothing more
        result |= {"left": None, "left_error": str(error)[:500]}
    return result | {"row_seconds": round(time.monotonic() - started, 1)}


def _give_back() -> Result:
    """What is left of a row on the device, and who holds it where that is much."""
    peers.leave_world()
    release.release()
    left = readings.read()
    if left["allocated"] <= MOST_LEFT_BYTES:
        return {"left": left}
    return {"left": left, "survivors": release.survivors()}


def _measure(
    row: Row, folder: Path, result: Result, traced: bool, inspect: Callable[[Any], Any] | None
) -> None:
    from measure.verify import run  # imports the stack, which must find the fake world

    (folder / "config.json").write_text(json.dumps(row.config), encoding="utf-8")
    readings.start()
    result["before"] = readings.read()
    arguments = run.parse(row, folder)
    trainer = run.build(arguments)
    try:
        _train(row, trainer, result, traced)
        if inspect:
            result["inspection"] = inspect(trainer)
    finally:
        release.forget_graphs(trainer.unwrapped_models)


def _train(row: Row, trainer: Any, result: Result, traced: bool) -> None:
    from measure.verify import run

    models, arguments = trainer.unwrapped_models, trainer.args
    routing.heat_experts(models, row.expert_load)
    tokens = routing.ExpertTokens(models)
    data = run.feed(row, trainer)
    result |= {"num_microbatches": arguments.num_microbatches, **_counts(trainer)}
    result["fused_gradients"] = arguments.gradient_accumulation_fusion
    result["after_build"] = readings.read()
    steps = result["steps"] = []
    while len(steps) < row.steps and (len(steps) < 2 or steps[-1]["seconds"] < LONG_SECONDS):
        steps.append(_step(trainer, data))
    result |= _summary(steps) | _timed(lambda: trainer.run_train_step(data, None))
    if trainer.config.num_moe_experts:
        result["expert_tokens"] = tokens.summary(arguments, trainer.config.moe_router_topk)
    if traced and result["compute_seconds"] >= TRACED_SECONDS:
        result["not_traced"] = (
            f"a step takes {result['compute_seconds']:.1f} s, and tracing a multiple of it; a step "
            f"of less than {TRACED_SECONDS:g} s is traced"
        )
    elif traced:
        result["trace"] = trace.largest_at_peak(lambda: _step(trainer, data))


def _step(trainer: Any, data: Any) -> Result:
    """One step of the trainer, split at the optimizer's."""
    moments: Result = {}
    optimizer_step = trainer.optimizer.step

    def step_of_optimizer() -> Any:
        moments["forward_backward"] = readings.read() | {"seconds": time.monotonic() - started}
        readings.start()
        return optimizer_step()

    trainer.optimizer.step = step_of_optimizer
    readings.start()
    started = time.monotonic()
    try:
        trainer.run_train_step(data, None)
        moments["optimizer"] = readings.read()
    finally:
        trainer.optimizer.step = optimizer_step
    moments["seconds"] = time.monotonic() - started
    moments["device_used"] = readings.device_used()
    return moments


def _timed(step: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of warm steps, what they took of the allocator, the GPU's clocks under load, and how
    fast the host was before each of them and after the last."""
    host, seconds = HostSpeed(), []
    readings.start()
    looks = [host.look()]
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        looks.append(host.look())
    timed = readings.read()
    return {
        "step_seconds": seconds,
        "compute_seconds": statistics.median(seconds),
        "timed_steps": timed,
        "host_speed": looks,
        "gpu_under_load": machine.gpu_while(step),
    }


def _counts(trainer: Any) -> dict[str, Any]:
    """Parameters of this rank's chunks, as built: all, trained, and of routed experts."""
    named = [pair for model in trainer.unwrapped_models for pair in model.named_parameters()]
    # a multimodal model has its language model beside its towers
    languages = [getattr(model, "language_model", model) for model in trainer.unwrapped_models]
    layers = [[layer.layer_number for layer in model.decoder.layers] for model in languages]
    return {
        "parameters": sum(p.numel() for _, p in named),
        "trained_parameters": sum(p.numel() for _, p in named if p.requires_grad),
        "expert_parameters": sum(p.numel() for name, p in named if ".experts." in name),
        "layer_numbers": layers,
    }


def _summary(steps: list[Result]) -> dict[str, Any]:
    """The numbers that predictions are compared with. The first step is cold: it compiles, and the
    optimizer has no states yet; peaks are those of all steps, as the allocator keeps them."""
    halves = [step[part] for step in steps for part in ("forward_backward", "optimizer")]
    return {
        "steady": steps[-1]["optimizer"]["allocated"],
        "forward_backward_peak": max(s["forward_backward"]["peak_allocated"] for s in steps),
        "optimizer_peak": max(step["optimizer"]["peak_allocated"] for step in steps),
        "peak_allocated": max(half["peak_allocated"] for half in halves),
        "peak_reserved": max(half["peak_reserved"] for half in halves),
        "device_used": max(step["device_used"] for step in steps),
    }
