"""Gives the device's memory back after a row, so that the next one starts as a new process would.

What a process keeps for good (rotary tables, cuBLAS workspaces) is dropped too: a run that starts
fresh allocates it again.
"""

import functools
import gc
import sys
from collections.abc import Iterator
from typing import Any

import torch

from measure.verify import routing

PACKAGES = ("megatron", "transformer_engine", "mcore_bridge", "swift")


def forget_graphs(models: list[Any]) -> None:
    """Let go of tensors with a history that modules and dispatchers keep after a step.

    Through their graph they reach parameters and so the modules that keep them, in a circle that
    Python's collector does not see. Megatron-Core's dispatcher keeps `probs` so (0.18.1,
    transformer/moe/token_dispatcher.py: dispatch_preprocess).
    """
    for model in models:
        for module in model.modules():
            for owner in (module, getattr(module, "token_dispatcher", None)):
                for name, value in list(vars(owner).items()) if owner else ():
                    if torch.is_tensor(value) and value.grad_fn is not None:
                        setattr(owner, name, None)


def release() -> None:
    """Drop what modules of the stack keep between models, and empty the allocator.

    Compiled code stays, for all shapes: compiling it again for each row takes longer than the row.
    """
    _forget_metrics()
    for cache in _caches():
        cache()
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def survivors(limit: int = 8) -> list[str]:
    """The largest tensors that Python still holds on the device: shape, type and who holds them."""
    found = []
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type == "cuda":
            found.append((thing.numel() * thing.element_size(), thing))
    found.sort(key=lambda pair: -pair[0])
    return [f"{size} B {tuple(t.shape)} {t.dtype} {_holders(t)}" for size, t in found[:limit]]


def _holders(tensor: Any) -> list[str]:
    return [type(holder).__name__ for holder in gc.get_referrers(tensor)][:6]


def _forget_metrics() -> None:
    """Losses of layers that wait to be logged, and biases of forced routing."""
    from megatron.core.transformer.moe import moe_utils
    from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper

    MTPLossLoggingHelper.tracker = {}
    if routing.can_bias():
        moe_utils.RandomSTEShared._cache.clear()
    if hasattr(moe_utils, "get_moe_layer_wise_logging_tracker"):  # until megatron-core 0.17
        moe_utils.get_moe_layer_wise_logging_tracker().clear()
    else:
        from megatron.core.transformer.moe import moe_logging

        moe_logging.set_moe_metrics_tracker(moe_logging.MoEMetricsTracker())


def _caches() -> Iterator[Any]:
    """What empties each functools cache and each module's dictionary of tensors in the stack."""
    for thing in gc.get_objects():
        # asked for its class, a weak proxy would ask what it stands for, which may be gone
        if type(thing) is functools._lru_cache_wrapper and _ours(thing.__module__):
            yield thing.cache_clear
    for name, module in list(sys.modules.items()):
        if _ours(name):
            for value in list(vars(module).values()):
                if type(value) is dict and any(torch.is_tensor(v) for v in value.values()):
                    yield value.clear


def _ours(name: str | None) -> bool:
    return bool(name) and str(name).split(".")[0] in PACKAGES
