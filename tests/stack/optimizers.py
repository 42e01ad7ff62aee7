"""What megatron-core makes of gradients and of the optimizer's states. Runs inside the worker."""

import inspect
import re
from types import SimpleNamespace
from typing import Any

import megatron.core.optimizer as megatron_optimizer
import torch
from megatron.core import parallel_state
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
from swift.megatron.trainers.base import BaseMegatronTrainer
from swift.megatron.utils import wrap_model
from torch.distributed import get_process_group_ranks

from stack import fake_world
from stack.arguments import build_models, post_init, raised


def optimizer(argv: list[str], world_size: int, rank: int = 0) -> dict[str, Any]:
    """Return bytes of a rank's buffers, by name, and `refused`: who refuses to make the optimizer.

    `gradients` are those of the buffers that are reduced, `master` those of the parameters that the
    optimizer steps where they are not the model's own, on the meta device.
    """
    arguments, models = _wrapped(argv, world_size, rank)
    trainer = SimpleNamespace(
        args=arguments,
        wrapped_models=models,
        _needs_own_param_groups=BaseMegatronTrainer._needs_own_param_groups,
        _get_muon_config_overrides=lambda _: {},
    )
    made: list[Any] = []

    def make() -> None:
        made.append(BaseMegatronTrainer.get_optimizer_and_scheduler(trainer)[0])

    refused = raised(make)
    buffers = [buffer for model in models for buffer in _buffers(model)]
    return {
        "refused": refused,
        "gradients": sum(_bytes(buffer.grad_data) for buffer in buffers),
        "parameters": sum(_bytes(buffer.param_data) for buffer in buffers),
        "elements": sum(buffer.grad_data.numel() for buffer in buffers),
        "master": sum(_master_bytes(each) for each in made),
    }


def expert_gradients(argv: list[str], world_size: int, rank: int = 0) -> dict[str, Any]:
    """Return what becomes of the gradients of a rank's routed experts, under full parameters or
    adapters.

    `reduced_over` are the groups of ranks over which buffers with such gradients are reduced,
    `copies` the ranks that hold the same experts, `over_tp` whether finalize_model_grads adds a
    reduction over tensor-parallel ranks.
    """
    _, models = _wrapped(argv, world_size, rank)
    experts = {
        parameter
        for model in models
        for name, parameter in model.named_parameters()
        if ".experts." in name and parameter.requires_grad
    }
    holding = [
        buffer for model in models for buffer in _buffers(model) if experts & set(buffer.params)
    ]
    marks = ("sequence_parallel", "average_gradients_across_tp_domain")
    return {
        "reduced_over": [get_process_group_ranks(each.data_parallel_group) for each in holding],
        "copies": get_process_group_ranks(parallel_state.get_expert_data_parallel_group()),
        "over_tp": any(getattr(each, mark, False) for each in experts for mark in marks),
    }


def _wrapped(argv: list[str], world_size: int, rank: int) -> tuple[Any, list[Any]]:
    """Arguments, and the chunks of a rank's model, on the meta device, in what reduces their
    gradients."""
    fake_world.enter(world_size, rank)
    arguments = post_init("megatron sft", argv, {})
    arguments.train_iters = 10
    built = [
        model.to("meta") for model in build_models(arguments, {})
    ]  # routers are made on the CPU
    return arguments, wrap_model(arguments, built)


def _buffers(model: Any) -> list[Any]:
    return [*model.buffers, *model.expert_parallel_buffers]


def _bytes(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


def _master_bytes(made: Any) -> int:
    """Bytes of fp32 parameters that an optimizer and those that it is a chain of step."""
    chained = getattr(made, "chained_optimizers", [made])
    groups = [group for each in chained for group in each.optimizer.param_groups]
    return sum(_bytes(p) for group in groups for p in group["params"] if p.dtype == torch.float32)


def offload_options() -> list[str]:
    """Return what megatron-core tells the optimizer that divides states between GPU and host."""
    source = inspect.getsource(megatron_optimizer)
    call = source.split("optimizer = HybridDeviceOptimizer(")[1].split("init_state_fn")[0]
    return re.findall(r"(\w+)=", call)


def layout_chunks(text: str) -> list[str] | None:
    """Return the chunks that megatron-core reads in a layout string; None: it refuses it."""
    letters = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
    try:
        chunks = PipelineParallelLayerLayout.parse_str_to_list(text)
    except AssertionError:
        return None
    return ["".join(letters[layer.name] for layer in chunk) for chunk in chunks]
