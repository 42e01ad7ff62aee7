"""Lets `megatron sft` train a model folder that has no weights, write none, and tell of its ranks.

`--external_plugins` of ms-swift imports it and `--callbacks of_a_rank` adds the callback.
"""

import json
import os
import subprocess
import threading
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from mcore_bridge.bridge.gpt_bridge import GPTBridge
from megatron.core.transformer.moe.moe_layer import MoELayer
from swift.dataset import packing
from swift.megatron.callbacks import MegatronCallback, megatron_callbacks_map
from turns import May, Said, await_turn, say

WEIGHT_STD = 0.02  # the usual initializer_range of config.json
MIB = 2**20


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


def start_threads(_: Any, *, target: Any, jobs: list[Any]) -> list[threading.Thread]:
    """Packs are made in this process; another one would import the stack first, for 10 to 20 s."""
    threads = [threading.Thread(target=target, args=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    return threads


class OfARank(MegatronCallback):  # type: ignore[misc]  # of a package without types
    """Writes no checkpoint, and `rank0.json`, `rank1.json`, ... into the output folder at the end.

    It waits for its turn before the first step. The files hold how many tokens the rank's experts
    got of a layer's microbatch, and memory in bytes.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        trainer.save_checkpoint = lambda *_, **__: None
        self.expert_tokens: list[int] = []
        for model in trainer.unwrapped_models:
            for module in model.modules():
                if isinstance(module, MoELayer):
                    module.experts.register_forward_pre_hook(self._count)

    def _count(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self.expert_tokens.append(inputs[0].shape[0])

    def on_train_begin(self) -> None:
        """Model and optimizer are built."""
        say(Said.BUILT)
        await_turn(May.TRAIN)

    def on_train_end(self) -> None:
        """After the last step."""
        parameters = [p for model in self.trainer.unwrapped_models for p in model.parameters()]
        seen = {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "mean_expert_tokens": round(mean(self.expert_tokens), 1) if self.expert_tokens else 0,
            "most_expert_tokens": max(self.expert_tokens, default=0),
            "allocated": torch.cuda.memory_allocated(),
            "reserved": torch.cuda.memory_reserved(),
            "peak_allocated": torch.cuda.max_memory_allocated(),
            "peak_reserved": torch.cuda.max_memory_reserved(),
            "device_used": used_on_device(),
        }
        page = Path(self.args.output_dir) / f"rank{torch.distributed.get_rank()}.json"
        page.write_text(json.dumps(seen), encoding="utf-8")
        say(Said.TRAINED)


def used_on_device() -> int | None:
    """Device memory of this process in bytes; None where the driver does not say."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    used = dict(line.split(", ") for line in lines.splitlines() if line.count(", ") == 1)
    mine = used.get(str(os.getpid()), "")
    return int(mine) * MIB if mine.isdigit() else None


GPTBridge.load_weights = make_up_weights
packing._spawn_workers = start_threads
packing._resolve_mp_context = lambda *_: get_context("fork")  # of queues only
megatron_callbacks_map["of_a_rank"] = OfARank
