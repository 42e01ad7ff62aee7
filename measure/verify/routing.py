"""Sends this rank's experts a given share of the tokens, and counts what they get."""

from typing import Any

import torch

SAMPLE_TOKENS = 16384  # whose routing is tried to find a bias
BISECTIONS = 20


def can_bias() -> bool:
    """Whether Megatron-Core itself adds a bias to random logits: since 0.17 (transformer/moe/
    moe_utils.py: apply_biased_logits)."""
    from megatron.core.transformer.moe import moe_utils

    return hasattr(moe_utils, "RandomSTEShared")


def heat_experts(models: list[Any], expert_load: float) -> None:
    """Bias the forced random logits of every router so that this rank's experts get
    `expert_load` times the mean; nothing at 1.0. See `Row.routing_kwargs`."""
    if expert_load == 1.0:
        return
    biases: dict[int, torch.Tensor] = {}
    for layer in _moe_layers(models):
        router = layer.router
        if not biases:
            biases[0] = _bias(router, layer.local_expert_indices, expert_load)
        _add(router, biases[0])


def _add(router: Any, bias: torch.Tensor) -> None:
    """Let a router add a bias to its random logits."""
    if can_bias():
        from megatron.core.transformer.moe.moe_utils import RandomSTEShared

        RandomSTEShared._cache[router.layer_number] = bias
        return
    route = router.routing
    router.routing = lambda logits, *args, **options: route(
        logits + bias.to(logits.dtype), *args, **options
    )


def _bias(router: Any, experts: list[int], expert_load: float) -> torch.Tensor:
    """The logits to add, by bisection over their common value for this rank's experts."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    noise = torch.randn(SAMPLE_TOKENS, router.config.num_moe_experts, generator=generator)
    noise = noise.to(torch.cuda.current_device())
    mine = torch.zeros_like(noise[0])
    mine[experts] = 1.0
    low, high = 0.0, 8.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        chosen = _routing_map(router, noise + middle * mine).float().mean(0)
        load = float((chosen * mine).sum() / chosen.sum() / mine.mean())
        low, high = (middle, high) if load < expert_load else (low, middle)
    return mine * low


def _routing_map(router: Any, logits: torch.Tensor) -> torch.Tensor:
    from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function

    config = router.config
    chosen: torch.Tensor = topk_routing_with_score_function(
        logits,
        router.topk,
        use_pre_softmax=config.moe_router_pre_softmax,
        num_groups=config.moe_router_num_groups,
        group_topk=config.moe_router_group_topk,
        scaling_factor=config.moe_router_topk_scaling_factor,
        score_function=router.score_function,
        expert_bias=router.expert_bias,
    )[1]
    return chosen


def _moe_layers(models: list[Any]) -> list[Any]:
    from megatron.core.transformer.moe.moe_layer import MoELayer

    modules = (module for model in models for module in model.modules())
    return [module for module in modules if isinstance(module, MoELayer)]


class ExpertTokens:
    """Counts the tokens that reach this rank's experts, each time a sparse layer runs."""

    def __init__(self, models: list[Any]) -> None:
        self._counts: list[int] = []
        for layer in _moe_layers(models):
            layer.experts.register_forward_pre_hook(self._count)

    def _count(self, module: Any, inputs: tuple[Any, ...]) -> None:
        self._counts.append(inputs[0].shape[0])

    def summary(self, arguments: Any, topk: int) -> dict[str, float] | None:
        """Tokens of a layer when balanced, and the mean and the most over all that was counted;
        None: nothing was."""
        if not self._counts:
            return None
        local = arguments.micro_batch_size * arguments.seq_length // arguments.context_parallel_size
        if arguments.sequence_parallel:
            local //= arguments.tensor_model_parallel_size
        return {
            "balanced": local * topk * arguments.expert_tensor_parallel_size,
            "mean": sum(self._counts) / len(self._counts),
            "most": max(self._counts),
        }
