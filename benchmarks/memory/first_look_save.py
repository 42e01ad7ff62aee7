"""Keeps what was predicted of runs that save and resume, before any of them was run.

    python benchmarks/memory/first_look_save.py

writes first_look_save.jsonl beside this file: the most that a rank has allocated while ms-swift
calls what is named, in bytes, by the sources (ms-swift 4.6.0, megatron-core 0.18.1, Transformer
Engine 2.12.0, mcore-bridge 1.6.5):

- load_weights: the weights alone, before optimizer and gradients are made; they are copied from the
  host tensor by tensor (mcore_bridge/bridge/gpt_bridge.py: _set_param).
- save_mcore_checkpoint: what is there between steps; states and weights go to the host as they are
  (optimizer/distrib_optimizer.py: sharded_param_state_dp_reshardable).
- save_weights: that and the first layer of all experts of the rank in one piece (gpt_bridge.py:
  _get_weight).
- load_mcore_checkpoint, of a full run: what is there after building, the moments, and those of the
  experts' optimizer, the last of two, once more: Megatron-Core makes empty ones for FusedAdam's
  load_state_dict, which makes its own beside them (distrib_optimizer.py: load_state_dict; te
  optimizers/fused_adam.py:462). Of LoRA: what is there after building, and adapters' moments.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

from predict import FOLDER, predict, rows

from planner.layer_shape import BF16, FP32

PAGE = FOLDER / "first_look_save.jsonl"


def sizes() -> Iterator[dict[str, str | int]]:
    """Predicted bytes of each rank and call."""
    for row in rows("save.jsonl"):
        for rank in range(row.world_size):
            found = predict(replace(row, rank=rank), {})
            memory, parts, layout = found.memory, found.parameters, found.layout
            dp = layout.world_size // (layout.tp * layout.cp * layout.pp)
            dense = parts.trainable_dense / dp
            experts = parts.trainable_expert / (dp // layout.ep)
            width = row.config["hidden_size"] * row.config["moe_intermediate_size"]
            first_layers = row.config["num_experts"] // layout.ep * 2 * width * BF16
            calls = {
                "load_weights": parts.total * BF16,
                "save_mcore_checkpoint": memory.steady,
                "save_weights": memory.steady + first_layers,
                "load_mcore_checkpoint": memory.after_build + 2 * FP32 * (dense + 2 * experts),
            }
            if parts.trainable < parts.total:  # of adapters only
                calls["save_weights"] = memory.steady
            for call, size in calls.items():
                yield {"id": row.id, "rank": rank, "call": call, "peak_allocated": round(size)}


def main() -> None:
    """Write first_look_save.jsonl, once."""
    with PAGE.open("x", encoding="utf-8") as page:
        for line in sizes():
            page.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
