"""A short look at how fast the host is now: Python, launches, and a small layer of the stack.

The same host takes up to half as long again at other times, and ranks that wait for it do too.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

LOOPS, LAUNCHES, LAYERS = 100_000, 1_000, 40  # together about 50 ms
ROWS, WIDTH = 64, 256  # small: the host decides


class HostSpeed:
    """Looks at the host whenever it is asked; made once, as it keeps tensors on the device."""

    def __init__(self) -> None:
        import transformer_engine.pytorch as te  # once the world of `peers` is there

        self._tensor = torch.zeros(1, device="cuda")
        self._linear: Any = te.Linear(WIDTH, WIDTH, bias=False, params_dtype=torch.bfloat16)
        self._inputs = torch.zeros(ROWS, WIDTH, dtype=torch.bfloat16, device="cuda")
        self._inputs.requires_grad_()
        self.look()  # what is done once is not counted

    def look(self) -> dict[str, float]:
        """Seconds of the host for 1,000 additions in Python, a launch of the smallest kernel, and a
        linear layer forward and backward."""
        found = {
            "python": _seconds(_count, LOOPS) * 1000,
            "launch": _seconds(self._launch, LAUNCHES),
            "layer": _seconds(self._layer, LAYERS),
        }
        return {name: float(f"{value:.4g}") for name, value in found.items()}

    def _launch(self, number: int) -> None:
        for _ in range(number):
            self._tensor.add_(1.0)

    def _layer(self, number: int) -> None:
        for _ in range(number):
            self._linear(self._inputs).sum().backward()


def _count(number: int) -> None:
    total = 0.0
    for each in range(number):
        total += each * 0.5


def _seconds(work: Callable[[int], None], number: int) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work(number)
    seconds = time.perf_counter() - started
    torch.cuda.synchronize()
    return seconds / number
