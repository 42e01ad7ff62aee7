"""Reads a checkpoint into Megatron-Core's distributed optimizers and counts their moments.

    python loading_on_cpu.py FOLDER

prints JSON: how many optimizers there are, how many moments were made to be read into, and how many
of these are alive when loading ends and after it, with Python's collector off. One rank on the CPU;
in Adam's place is what Transformer Engine's does with states (2.12.0, transformer_engine/pytorch/
optimizers/fused_adam.py: load_state_dict).
"""

import gc
import json
import sys
from copy import deepcopy
from itertools import chain
from typing import Any

import cuda_on_cpu
import torch
import torch.distributed as dist

cuda_on_cpu.install("cpu")
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/join", rank=0, world_size=1)
cuda_on_cpu.answer_megatron_core()

import megatron.core.optimizer as optimizers  # noqa: E402  # after cuda_on_cpu
from megatron.core import dist_checkpointing, parallel_state  # noqa: E402  # after cuda_on_cpu
from megatron.core.dist_checkpointing import ShardedTensor  # noqa: E402  # after cuda_on_cpu
from megatron.core.dist_checkpointing.strategies.torch import (  # noqa: E402  # after cuda_on_cpu
    TorchDistLoadShardedStrategy,
    TorchDistSaveShardedStrategy,
)
from megatron.core.distributed import (  # noqa: E402  # after cuda_on_cpu
    DistributedDataParallel,
    DistributedDataParallelConfig,
)
from megatron.core.optimizer import distrib_optimizer  # noqa: E402  # after cuda_on_cpu
from megatron.core.transformer import TransformerConfig  # noqa: E402  # after cuda_on_cpu

MOMENTS = ("exp_avg", "exp_avg_sq")


class Adam(torch.optim.Optimizer):
    """Has and loads states as Transformer Engine's does."""

    def __init__(self, params: Any, **_: Any) -> None:
        super().__init__(params, {"lr": 1.0})

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        saved = deepcopy(state_dict["param_groups"])
        given = chain.from_iterable(group["params"] for group in saved)
        here = chain.from_iterable(group["params"] for group in self.param_groups)
        params = dict(zip(given, here, strict=True))
        for number, states in state_dict["state"].items():
            self.state[params[number]] = {}
            for name, state in states.items():
                made = torch.empty_like(params[number])
                self.state[params[number]][name] = made.copy_(state.float())


optimizers.Adam = distrib_optimizer.Adam = Adam  # type: ignore[attr-defined]  # in its place
optimizers.USING_PYTORCH_OPTIMIZER = False
distrib_optimizer.HAVE_APEX_OR_TE = True


class Model(torch.nn.Module):
    """A weight of all ranks, and one of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(64, 64, bias=False)
        self.experts = torch.nn.Linear(64, 128, bias=False)
        self.experts.weight.allreduce = False


def build() -> tuple[Any, Any]:
    """The model and its optimizers, of dense and of experts' weights."""
    config = TransformerConfig(
        num_layers=1, hidden_size=64, num_attention_heads=1, bf16=True, params_dtype=torch.bfloat16
    )
    ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    model = DistributedDataParallel(config, ddp, Model().bfloat16())
    asked = optimizers.OptimizerConfig(
        optimizer="adam",
        lr=1e-3,
        bf16=True,
        params_dtype=torch.bfloat16,
        use_distributed_optimizer=True,
    )
    return model, optimizers.get_megatron_optimizer(asked, [model])


def sharded(model: Any, optimizer: Any, *, is_loading: bool) -> dict[str, Any]:
    """What a checkpoint has, as ms-swift asks for it."""
    weights = {
        name: ShardedTensor.from_rank_offsets(name, weight)
        for name, weight in model.module.state_dict(keep_vars=True).items()
    }
    metadata = {"distrib_optim_sharding_type": "dp_reshardable"}
    states = optimizer.sharded_state_dict(
        {"model": weights}, is_loading=is_loading, metadata=metadata
    )
    return {"model": weights, "optimizer": states}


def moments(optimizer: Any) -> set[int]:
    """Where the moments of all optimizers lie."""
    return {
        states[name].data_ptr()
        for each in optimizer.chained_optimizers
        for states in each.optimizer.state.values()
        for name in MOMENTS
    }


def alive(places: set[int]) -> int:
    """How many of these places a tensor has."""
    tensors = (each for each in gc.get_objects() if isinstance(each, torch.Tensor))
    return len({each.data_ptr() for each in tensors} & places)


def load(model: Any, optimizer: Any, folder: str, found: dict[str, int]) -> set[int]:
    """Read the checkpoint as ms-swift does; gives where the moments were that it was read into."""
    asked = sharded(model, optimizer, is_loading=True)
    first = moments(optimizer)
    state = dist_checkpointing.load(asked, folder, TorchDistLoadShardedStrategy())
    optimizer.load_state_dict(state["optimizer"])
    found |= {"made": len(first), "in_use": len(first & moments(optimizer))}
    found["at_the_end"] = alive(first)
    return first


def main(folder: str) -> None:
    """Save, build again, load, and say what is alive."""
    parallel_state.initialize_model_parallel()
    model, optimizer = build()
    for each in optimizer.chained_optimizers:
        for group in each.optimizer.param_groups:
            group["step"] = 1
            for param in group["params"]:
                each.optimizer.state[param] = {name: torch.rand_like(param) for name in MOMENTS}
    state = sharded(model, optimizer, is_loading=False)
    dist_checkpointing.save(state, folder, TorchDistSaveShardedStrategy())
    del state
    model, optimizer = build()
    found = {"optimizers": len(optimizer.chained_optimizers)}
    gc.collect()
    gc.disable()
    first = load(model, optimizer, folder, found)
    found["afterwards"] = alive(first)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
