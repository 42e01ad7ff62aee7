"""Gives the device's memory back after a row, so that the next one starts as a new process would.

What a process keeps for good (rotary tables, cuBLAS workspaces, compiled code for other shapes) is
dropped too: a run that starts fresh allocates it again.
"""

import functools
import gc
import sys
from collections.abc import Iterator
from typing import Any

import torch

PACKAGES = ("megatron", "transformer_engine", "mcore_bridge", "swift")


def release() -> None:
    """Drop what modules of the stack keep between models, and empty the allocator."""
    _forget_metrics()
    for cache in _caches():
        cache()
    torch._dynamo.reset()
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def survivors(limit: int = 8) -> list[str]:
    """The largest tensors that Python still holds on the device: shape, type and who holds them."""
    found = []
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cuda":
            found.append((thing.numel() * thing.element_size(), thing))
    found.sort(key=lambda pair: -pair[0])
    return [f"{size} B {tuple(t.shape)} {t.dtype} {_holders(t)}" for size, t in found[:limit]]


def _holders(tensor: Any) -> list[str]:
    return [type(holder).__name__ for holder in gc.get_referrers(tensor)][:6]


def _forget_metrics() -> None:
    """Losses of layers that wait to be logged, and biases of forced routing."""
    from megatron.core.transformer.moe import moe_logging, moe_utils
    from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper

    MTPLossLoggingHelper.tracker = {}
    moe_utils.RandomSTEShared._cache.clear()
    moe_logging.set_moe_metrics_tracker(moe_logging.MoEMetricsTracker())


def _caches() -> Iterator[Any]:
    """What empties each functools cache and each module's dictionary of tensors in the stack."""
    for thing in gc.get_objects():
        if isinstance(thing, functools._lru_cache_wrapper) and _ours(
            getattr(thing, "__module__", None)
        ):
            yield thing.cache_clear
    for name, module in list(sys.modules.items()):
        if _ours(name):
            for value in list(vars(module).values()):
                if type(value) is dict and any(torch.is_tensor(v) for v in value.values()):
                    yield value.clear


def _ours(name: str | None) -> bool:
    return bool(name) and str(name).split(".")[0] in PACKAGES
