"""A short look at the host: what Python, launches and a small layer take now."""

import time
from typing import Any

import torch

LOOPS, LAUNCHES, LAYERS = 200_000, 1_000, 40
ROWS, WIDTH = 64, 256  # small: the host decides


class Host:
    """Looks at the host whenever it is asked; made once, as its tensors are."""

    def __init__(self) -> None:
        import transformer_engine.pytorch as te  # once the world of `peers` is there

        self._began = time.monotonic()
        self._tensor = torch.zeros(1, device="cuda")
        self._linear = te.Linear(WIDTH, WIDTH, bias=False, params_dtype=torch.bfloat16)
        self._inputs = torch.zeros(ROWS, WIDTH, dtype=torch.bfloat16, device="cuda")
        self._inputs.requires_grad_()
        self.look()

    def look(self) -> dict[str, Any]:
        """Seconds since the beginning, and of the host: 1,000 additions in Python, a launch of the
        smallest kernel, a linear layer forward and backward."""
        found = {
            "at": round(time.monotonic() - self._began, 2),
            "python": self._seconds(self._count, LOOPS) * 1000,
            "launch": self._seconds(self._launch, LAUNCHES),
            "layer": self._seconds(self._layer, LAYERS),
        }
        return {name: float(f"{value:.4g}") for name, value in found.items()}

    @staticmethod
    def _seconds(work: Any, number: int) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        work(number)
        seconds = time.perf_counter() - started
        torch.cuda.synchronize()
        return seconds / number

    @staticmethod
    def _count(number: int) -> None:
        total = 0.0
        for each in range(number):
            total += each * 0.5

    def _launch(self, number: int) -> None:
        for _ in range(number):
            self._tensor.add_(1.0)

    def _layer(self, number: int) -> None:
        for _ in range(number):
            self._linear(self._inputs).sum().backward()
