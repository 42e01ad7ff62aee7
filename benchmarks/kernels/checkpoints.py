"""Times Megatron-Core's two ways to recompute around a product of eight numbers, on a CPU.

    PYTHONPATH=MEGATRON_CORE python benchmarks/kernels/checkpoints.py

writes checkpoints_cpu.json: microseconds of the forward and of the backward pass (medians), `plain`
without recomputation, `whole` with `checkpoint`, `lean` with CheckpointWithoutOutput. Both are code
for the host only. States of the GPU's random numbers are played by those of the CPU's, the settings
of fp8 by contexts that do nothing.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import megatron.core
import torch
from megatron.core.tensor_parallel import random as checkpoints

PAGE = Path(__file__).parent / "checkpoints_cpu.json"
COLD, TURNS = 200, 3000
WAYS = ("plain", "whole", "lean")


class _Tracker:
    """States by name, as CudaRNGStatesTracker keeps them."""

    states = dict.fromkeys(("model", "expert", "data"), 0)

    def get_states(self) -> dict[str, int]:
        return dict(self.states)

    def set_states(self, states: dict[str, int]) -> None:
        self.states = states


class _Fp8:
    @staticmethod
    def is_fp8_enabled() -> bool:
        return False

    @staticmethod
    def get_fp8_recipe() -> None:
        return None


@contextlib.contextmanager
def _nothing(**_: Any) -> Iterator[None]:
    yield


def _without_gpu() -> None:
    module, tracker = vars(checkpoints), _Tracker()
    module["_get_cuda_rng_state"] = lambda *_, **__: torch.get_rng_state()
    module["_set_cuda_rng_state"] = lambda state, *_, **__: torch.set_rng_state(state)
    module["get_cuda_rng_tracker"] = lambda *_: tracker
    module["is_graph_safe_cuda_rng_tracker"] = lambda _: False
    module["FP8GlobalStateManager"] = _Fp8
    module["activation_recompute_forward"] = module["fp8_autocast"] = _nothing


def _double(value: torch.Tensor) -> torch.Tensor:
    return value * 2.0


def _once(way: str) -> tuple[float, float]:
    """Microseconds forward and backward."""
    value = torch.randn(8, requires_grad=True) * 1.0
    gradient = torch.ones(8)
    started = time.perf_counter()
    if way == "lean":
        kept = checkpoints.CheckpointWithoutOutput()
        middle = kept.checkpoint(_double, value)
        answer = middle * middle
        kept.discard_output_and_register_recompute(answer)
    else:
        middle = checkpoints.checkpoint(_double, False, value) if way == "whole" else _double(value)
        answer = middle * middle
    forward = time.perf_counter() - started
    started = time.perf_counter()
    answer.backward(gradient)
    return forward * 1e6, (time.perf_counter() - started) * 1e6


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    _without_gpu()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for turn in range(COLD + TURNS):
        for way in WAYS:
            took = _once(way)
            if turn >= COLD:
                found[way].append(took)
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    )
    content = {
        "cpu": model,
        "megatron_core": megatron.core.__version__,
        "torch": torch.__version__,
        "microseconds": {
            way: {
                "forward": round(median(one for one, _ in each), 1),
                "backward": round(median(other for _, other in each), 1),
            }
            for way, each in found.items()
        },
    }
    PAGE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
