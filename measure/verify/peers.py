"""The ranks that are not there: torch's fake process group, which waits for nobody.

Under it a collective returns at once. What would come from a peer is made up here, in place and
without memory: peers hold what this rank holds, and neighbours in the pipeline send activations and
gradients of the run's shape, small and random. So no value is left to chance, and no NaN comes out
of memory that was never written.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

ACTIVATION_STD = 0.02  # of what a neighbour sends; any finite number will do
_SHAPE_LENGTH = 3  # Megatron-Core sends the three sizes of a tensor before it (p2p_communication)

_real: dict[str, Callable[..., Any]] = {}
_activation_shape: list[int] = [0, 0, 0]


def enter_world(world_size: int, rank: int, *, local_size: int = 1) -> None:
    """Make this process a rank of a new world; no parallel groups exist yet.

    `local_size` is the number of devices that this process sees: it takes the first.
    """
    leave_world()
    # Megatron-Core leaves the attention backend of the last model in the environment.
    for name in ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN"):
        os.environ.pop(name, None)
    os.environ.update(
        WORLD_SIZE=str(world_size),
        RANK=str(rank),
        LOCAL_WORLD_SIZE=str(local_size),
        LOCAL_RANK=str(rank % local_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29500",
    )
    _install()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)


def leave_world() -> None:
    """Forget the world, if there is one."""
    if dist.is_initialized():
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def expect_activations(shape: tuple[int, int, int]) -> None:
    """Tell the shape of what neighbours in the pipeline send: sequence, batch, hidden."""
    _activation_shape[:] = shape


def _install() -> None:
    """Take the place of what the fake group does nothing for. To be called before the stack is
    imported: Megatron-Core keeps some of these functions under names of its own."""
    if _real:
        return
    for name, replacement in {
        "new_group": _new_group,
        "all_to_all_single": _all_to_all_single,
        "reduce_scatter": _reduce_scatter,
        "reduce_scatter_tensor": _reduce_scatter_tensor,
        "isend": _isend,
        "irecv": _irecv,
    }.items():
        _real[name] = getattr(dist, name)
        setattr(dist, name, replacement)
        setattr(dist.distributed_c10d, name, replacement)


def _new_group(*args: Any, **options: Any) -> Any:
    """A fake group, also where Megatron-Core asks for gloo by name."""
    return _real["new_group"](*args, **{**options, "backend": "fake", "pg_options": None})


@torch.no_grad()
def _all_to_all_single(output: Any, input: Any, *args: Any, **options: Any) -> Any:
    """Peers send what this rank sends, over and over until the output is full."""
    work = _real["all_to_all_single"](output, input, *args, **options)
    for first in range(0, len(output) if len(input) else 0, max(1, len(input))):
        part = output[first : first + len(input)]
        part.copy_(input[: len(part)])
    return work


@torch.no_grad()
def _reduce_scatter(output: Any, inputs: Any, *args: Any, **options: Any) -> Any:
    """As `_reduce_scatter_tensor`, of a list with the part of each rank."""
    work = _real["reduce_scatter"](output, inputs, *args, **options)
    output.copy_(inputs[dist.get_rank(options.get("group"))])
    return work


@torch.no_grad()
def _reduce_scatter_tensor(output: Any, input: Any, *args: Any, **options: Any) -> Any:
    """The peers' parts are not added: the output is this rank's own part of the input."""
    work = _real["reduce_scatter_tensor"](output, input, *args, **options)
    rank = dist.get_rank(options.get("group"))
    part = input.reshape(-1)[rank * output.numel() : (rank + 1) * output.numel()]
    if part.data_ptr() != output.data_ptr():  # a shard of a gradient buffer is reduced in place
        output.copy_(part.view_as(output))
    return work


class _Transfer:
    """A transfer between two ranks, which like NCCL's is behind all that its stream had to do.

    Who waits on another stream waits for that too: without it, attention over CP reads lengths on
    its second stream before they are there.
    """

    def __init__(self, tensor: Any) -> None:
        self._event: Any = torch.cuda.Event() if tensor.is_cuda else None  # type: ignore[no-untyped-call]  # of torch
        if self._event:
            self._event.record()

    def wait(self, *_: Any) -> bool:
        """Make the current stream wait for the transfer."""
        if self._event:
            self._event.wait()
        return True

    def is_completed(self) -> bool:
        """Nothing is under way that anybody could watch."""
        return True


def _isend(tensor: Any, *args: Any, **options: Any) -> Any:
    """Nobody receives."""
    _real["isend"](tensor, *args, **options)
    return _Transfer(tensor)


@torch.no_grad()
def _irecv(tensor: Any, *args: Any, **options: Any) -> Any:
    """A neighbour sends a shape where one is awaited, and else small numbers: tokens are 0."""
    _real["irecv"](tensor, *args, **options)
    if tensor.dtype == torch.int64 and tuple(tensor.shape) == (_SHAPE_LENGTH,):
        tensor.copy_(torch.tensor(_activation_shape))
    elif tensor.is_floating_point():
        tensor.normal_(0.0, ACTIVATION_STD)
    else:
        tensor.zero_()
    return _Transfer(tensor)
