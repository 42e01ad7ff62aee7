"""Any rank of a world of any size, in one process: torch's fake groups under megatron-core's own.

Runs inside the worker.
"""

import os
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

GPUS_PER_NODE = 8

GROUPS = {
    "tp": parallel_state.get_tensor_model_parallel_group,
    "pp": parallel_state.get_pipeline_model_parallel_group,
    "cp": parallel_state.get_context_parallel_group,
    "dp": parallel_state.get_data_parallel_group,
    "dp_cp": lambda: parallel_state.get_data_parallel_group(with_context_parallel=True),
    "tp_cp": parallel_state.get_tensor_and_context_parallel_group,
    "ep": parallel_state.get_expert_model_parallel_group,
    "etp": parallel_state.get_expert_tensor_parallel_group,
    "etp_ep": parallel_state.get_expert_tensor_and_model_parallel_group,
    "edp": parallel_state.get_expert_data_parallel_group,
}

_new_group = dist.new_group


def _new_fake_group(*args: Any, **options: Any) -> Any:
    """A group that waits for nobody, also where megatron-core asks for gloo by name."""
    return _new_group(*args, **{**options, "backend": "fake", "pg_options": None})


def enter(world_size: int, rank: int) -> None:
    """Make this process the given rank of a new world. No parallel groups exist yet."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
    # megatron-core leaves the attention backend of the last model in the environment.
    for name in ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN"):
        os.environ.pop(name, None)
    local_size = min(world_size, GPUS_PER_NODE)
    os.environ.update(
        WORLD_SIZE=str(world_size),
        RANK=str(rank),
        LOCAL_WORLD_SIZE=str(local_size),
        LOCAL_RANK=str(rank % local_size),
        NPROC_PER_NODE=str(local_size),
        NNODES=str(-(-world_size // GPUS_PER_NODE)),
        NODE_RANK=str(rank // local_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29500",
    )
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    dist.new_group = _new_fake_group


def rank_groups(
    world_size: int,
    tp: int = 1,
    pp: int = 1,
    cp: int = 1,
    ep: int = 1,
    etp: int = 1,
    ranks: list[int] | None = None,
) -> dict[str, list[list[int]]]:
    """Return per kind of group the group of each of `ranks` (default: all), in this order."""
    groups: dict[str, list[list[int]]] = {name: [] for name in GROUPS}
    for rank in range(world_size) if ranks is None else ranks:
        enter(world_size, rank)
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=tp,
            pipeline_model_parallel_size=pp,
            context_parallel_size=cp,
            expert_model_parallel_size=ep,
            expert_tensor_parallel_size=etp,
        )
        for name, get_group in GROUPS.items():
            groups[name].append(dist.get_process_group_ranks(get_group()))
    return groups
