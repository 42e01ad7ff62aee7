"""Seconds of kernels: on the device with the host ahead of it, and on the host."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

REPEATS = 5
HOST_AHEAD_CYCLES = 1_000_000  # half a ms that the device is kept busy while the host launches
BF16 = torch.bfloat16

Case = Callable[[], Iterator[dict[str, Any]]]


def back(tensors: list[torch.Tensor], grads: torch.Tensor, output: torch.Tensor) -> Any:
    """Gradients of what was wanted."""
    return torch.autograd.grad(output, tensors, grads)


def random_tensor(*shape: int) -> torch.Tensor:
    """Of bf16 on the device."""
    return torch.randn(*shape, dtype=BF16, device="cuda")


def device_seconds(call: Callable[[], Any]) -> float:
    """Median of the device's seconds, with the host ahead of it."""
    call()
    torch.cuda._sleep(HOST_AHEAD_CYCLES)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(REPEATS + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    pairs = itertools.pairwise(events)
    return statistics.median(one.elapsed_time(other) for one, other in pairs) / 1e3


def both(call: Callable[[Any], Any], prepare: Callable[[], Any] = lambda: None) -> dict[str, float]:
    """Seconds of the device, with the host ahead, and of the host alone; `prepare`, which is not
    timed, makes what the call consumes."""
    device, host = [], []
    for _ in range(REPEATS + 2):
        prepared = prepare()
        torch.cuda.synchronize()
        torch.cuda._sleep(HOST_AHEAD_CYCLES + int(2.5e9 * (host[-1] if len(host) > 1 else 0)))
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        started = time.perf_counter()
        call(prepared)
        host.append(time.perf_counter() - started)
        last.record()
        torch.cuda.synchronize()
        device.append(first.elapsed_time(last) / 1e3)
    return {"seconds": statistics.median(device[2:]), "host_seconds": statistics.median(host[2:])}
