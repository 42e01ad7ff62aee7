"""What a rank of a real run says of its memory, a JSON line an event.

`--external_plugins` of ms-swift imports it and `--callbacks memory` adds it. Peaks are those since
the process began, as in ms-swift's log; nothing is reset, and nothing is saved at the end.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from megatron.core.transformer.moe.moe_layer import MoELayer
from swift.megatron.callbacks import MegatronCallback, megatron_callbacks_map

MIB = 2**20
EVERY_STEP = 6  # up to here each step is looked at on the device, later every tenth


class MemoryCallback(MegatronCallback):  # type: ignore[misc]  # of a package without types
    """Writes `rank0.jsonl`, `rank1.jsonl`, ... into the output folder."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        trainer.save_checkpoint = lambda *_, **__: None
        rank = torch.distributed.get_rank()
        self.page = Path(self.args.output_dir) / f"rank{rank}.jsonl"
        self.expert_tokens: list[int] = []
        for model in trainer.unwrapped_models:
            for module in model.modules():
                if isinstance(module, MoELayer):
                    module.experts.register_forward_pre_hook(self._count)

    def _count(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self.expert_tokens.append(inputs[0].shape[0])

    def on_train_begin(self) -> None:
        """Model and optimizer are built."""
        named = [
            pair for model in self.trainer.unwrapped_models for pair in model.named_parameters()
        ]
        counts = {
            "parameters": sum(p.numel() for _, p in named),
            "trained_parameters": sum(p.numel() for _, p in named if p.requires_grad),
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
        }
        self._write({"step": 0, **counts, **self._device()})

    def on_step_end(self) -> None:
        """After the optimizer's step."""
        step = self.state.iteration
        seen = {"step": step, "expert_tokens": self.expert_tokens}
        if step <= EVERY_STEP or step % 10 == 0:
            seen |= self._device()
        self._write(seen)
        self.expert_tokens = []

    def _device(self) -> dict[str, int | None]:
        """Device memory of this process and of all, in bytes."""
        free, total = torch.cuda.mem_get_info()
        query = [
            "nvidia-smi",
            "--query-compute-apps=pid,used_memory",
            "--format=csv,noheader,nounits",
        ]
        try:
            lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        except OSError:
            lines = ""
        used = dict(line.split(", ") for line in lines.splitlines() if line.count(", ") == 1)
        mine = used.get(str(os.getpid()), "")
        return {
            "device_used": int(mine) * MIB if mine.isdigit() else None,
            "device_used_by_all": total - free,
        }

    def _write(self, seen: dict[str, Any]) -> None:
        torch.cuda.synchronize()
        seen |= {
            "allocated": torch.cuda.memory_allocated(),
            "reserved": torch.cuda.memory_reserved(),
            "peak_allocated": torch.cuda.max_memory_allocated(),
            "peak_reserved": torch.cuda.max_memory_reserved(),
            "time": round(time.time(), 3),
        }
        with self.page.open("a", encoding="utf-8") as file:
            file.write(json.dumps(seen) + "\n")


megatron_callbacks_map["memory"] = MemoryCallback
