"""torch.cuda answered by another device: "cpu" to train, "meta" to build modules without memory.

ms-swift, mcore-bridge and megatron-core ask torch.cuda for the current device, streams, events and
random states, and write `device="cuda"` in places. `install` gives each such question the answer of
a single device without queues. Nothing is edited in those packages; what megatron-core asks of a
tensor rather than of torch.cuda is answered by `answer_megatron_core`.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class NoQueue:
    """A stream and an event of a device without queues: all that was asked for has happened."""

    cuda_stream = 0

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> "NoQueue":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def query(self) -> bool:
        """Return True: done."""
        return True

    def record_event(self, *_: object) -> "NoQueue":
        """Return an event."""
        return self

    def wait(self, *_: object) -> None:
        """Return at once."""

    record = synchronize = wait_event = wait_stream = wait


class CudaMeans(TorchFunctionMode):
    """While active, `cuda` in a torch call means `device`, and so do the names of types."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.record_stream:
            return None
        answer = func(
            *(self._translate(value) for value in args),
            **{name: self._translate(value) for name, value in (kwargs or {}).items()},
        )
        if func is torch.Tensor.type and isinstance(answer, str):
            # megatron-core's optimizer sorts parameters by names such as torch.cuda.FloatTensor
            return answer.replace(".meta.", ".").replace("torch.", "torch.cuda.", 1)
        return answer

    def _translate(self, value: Any) -> Any:
        is_device = isinstance(value, str | torch.device)
        return self.device if is_device and str(value).startswith("cuda") else value


def _always(value: Any) -> Callable[..., Any]:
    """A function that answers `value` to anything; each time another, as torch.compile needs."""
    return lambda *_, **__: value


def _answers(device: torch.device) -> dict[str, Any]:
    """What takes the place of each attribute of torch.cuda."""
    nothing = ("set_device", "set_stream", "synchronize", "empty_cache", "ipc_collect")
    zero = ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved")
    return {
        "current_device": _always(device),
        # ms-swift seeds the tensor-parallel random states only if it counts a device
        "device_count": lambda: int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        "manual_seed": lambda seed: torch.default_generator.manual_seed(seed),
        "manual_seed_all": lambda seed: torch.default_generator.manual_seed(seed),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "Stream": NoQueue,
        "Event": NoQueue,
        "stream": lambda *_: nullcontext(),
        "current_stream": _always(NoQueue()),
        "default_stream": _always(NoQueue()),
        "get_device_name": _always(str(device)),
        "mem_get_info": _always((0, 0)),
        "memory_stats": _always({}),
        **{name: _always(None) for name in (*nothing, "reset_peak_memory_stats")},
        **{name: _always(0) for name in zero},
    }


def install(device: str) -> None:
    """Answer for torch.cuda from now on. To be called before megatron-core is imported."""
    for name, answer in _answers(torch.device(device)).items():
        setattr(torch.cuda, name, answer)
    torch._C._cuda_clearCublasWorkspaces = _always(None)  # type: ignore[attr-defined]  # of CUDA builds only
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *_: None  # type: ignore[assignment]  # replaced on purpose
    CudaMeans(torch.device(device)).__enter__()


def answer_megatron_core() -> None:
    """Answer what megatron-core does for tensors on CUDA only. To be called after `install`."""
    from megatron.core.dist_checkpointing import exchange_utils
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer.moe import token_dispatcher

    def to_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    def place_for_exchange(
        shard_id: Any, needed: dict[Any, Any], unneeded: dict[Any, Any], loaded: dict[Any, Any]
    ) -> tuple[torch.Tensor, None]:
        # ms-swift loads the weights under an adapter by what this writes in place
        shard = needed.get(shard_id, unneeded[shard_id])
        shard.init_data("cuda")
        if shard_id in needed:
            loaded[shard_id] = shard.data
        return shard.data, None

    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    token_dispatcher.maybe_move_tensor_to_cpu = to_cpu
    exchange_utils._get_empty_tensor_for_exchange = place_for_exchange
