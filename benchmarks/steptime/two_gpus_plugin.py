"""Lets `megatron sft` train a model folder that has no weights, and write none.

`--external_plugins` of ms-swift imports it and `--callbacks nothing_saved` adds the callback.
"""

from typing import Any

import torch
from mcore_bridge.bridge.gpt_bridge import GPTBridge
from swift.megatron.callbacks import MegatronCallback, megatron_callbacks_map

WEIGHT_STD = 0.02  # the usual initializer_range of config.json


@torch.no_grad()
def make_up_weights(_: GPTBridge, models: list[Any], *__: Any, **___: Any) -> None:
    """Finite values in the place of a checkpoint's, the same on ranks that hold the same."""
    for model in models:
        for place, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.dim() > 1:
                lot = torch.Generator(parameter.device).manual_seed(place)
                parameter.data.normal_(0.0, WEIGHT_STD, generator=lot)
            else:
                parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)


class NothingSaved(MegatronCallback):  # type: ignore[misc]  # of a package without types
    """Writes no checkpoint."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        trainer.save_checkpoint = lambda *_, **__: None


GPTBridge.load_weights = make_up_weights
megatron_callbacks_map["nothing_saved"] = NothingSaved
