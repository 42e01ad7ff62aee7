"""Writes, after every step of `megatron sft`, what the token dispatchers hold until the next one.

`--external_plugins` imports it and `--callbacks kept` adds it. KEPT_FOLDER gets a file a rank, with
the shapes of the tensors at which the graph of each dispatcher's `probs` begins, beside parameters.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from swift.megatron.callbacks import MegatronCallback, megatron_callbacks_map


class KeptCallback(MegatronCallback):  # type: ignore[misc]  # of a package without types
    """Appends a line a step: of each dispatcher what it holds, with its gradient or without."""

    def on_step_end(self) -> None:
        """After the optimizer's step."""
        rank = torch.distributed.get_rank()
        held = [
            _leaves(module.mlp.token_dispatcher)
            for model in self.trainer.unwrapped_models
            for module in model.modules()
            if hasattr(getattr(module, "mlp", None), "token_dispatcher")
        ]
        line = {"step": self.state.iteration, "held": held}
        page = Path(os.environ["KEPT_FOLDER"]) / f"rank{rank}.jsonl"
        with page.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _leaves(dispatcher: Any) -> list[dict[str, Any]]:
    assert isinstance(dispatcher, MoEAlltoAllTokenDispatcher)
    found, nodes, seen = [], [dispatcher.probs.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        tensor = getattr(node, "variable", None)
        if tensor is not None and not isinstance(tensor, torch.nn.Parameter):
            gradient = tensor.grad is not None and list(tensor.grad.shape) == list(tensor.shape)
            found.append(
                {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "gradient": gradient}
            )
    return found


megatron_callbacks_map["kept"] = KeptCallback
