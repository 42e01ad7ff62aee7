"""What a rank of a real run takes of the GPU while it loads and saves, a JSON line an event.

`--external_plugins` of ms-swift imports it and `--callbacks saving` adds it. An event is a call of
ms-swift or mcore-bridge: what was allocated and reserved before and after it, the most meanwhile,
and the largest tensors then. `SAVING_PAGES` is the folder that gets `rank0.jsonl`, ...; with
`SAVING_STEPS` set, the process ends after that step, and nothing is saved at the end.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mcore_bridge.bridge.gpt_bridge import GPTBridge
from swift.megatron.callbacks import MegatronCallback, megatron_callbacks_map
from swift.megatron.trainers import base

from measure.verify import readings, trace

LISTED = 12  # call sites of an event


def write(event: str, **seen: Any) -> None:
    """Append an event to this rank's page."""
    page = Path(os.environ["SAVING_PAGES"]) / f"rank{os.environ.get('RANK', '0')}.jsonl"
    with page.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, **seen, "after": readings.read()}) + "\n")


def watch(owner: Any, name: str) -> None:
    """Let each call of an attribute be an event of its name."""
    function: Callable[..., Any] = getattr(owner, name)

    def watched(*args: Any, **options: Any) -> Any:
        answers: list[Any] = []
        readings.start()
        before, began = readings.read(), time.monotonic()
        found = trace.largest_at_peak(lambda: answers.append(function(*args, **options)))
        seconds = round(time.monotonic() - began, 1)
        at_peak = {"peak": found["peak"], "at_peak": found["at_peak"][:LISTED]}
        write(name, seconds=seconds, before=before, trace=at_peak)
        return answers[0]

    setattr(owner, name, watched)


class SavingCallback(MegatronCallback):  # type: ignore[misc]  # of a package without types
    """Writes when the run is built and after each step."""

    def on_train_begin(self) -> None:
        """Model and optimizer are built, and loaded."""
        models = self.trainer.unwrapped_models
        parameters = sum(p.numel() for model in models for p in model.parameters())
        write("built", parameters=parameters, gpu=torch.cuda.get_device_name())
        readings.start()

    def on_step_end(self) -> None:
        """After the optimizer's step."""
        step = self.state.iteration
        write("step", step=step)
        readings.start()
        if step == int(os.environ.get("SAVING_STEPS", "0")):
            os._exit(0)


megatron_callbacks_map["saving"] = SavingCallback
for of, called in (
    (base, "save_mcore_checkpoint"),
    (base, "load_mcore_checkpoint"),
    (GPTBridge, "save_weights"),
    (GPTBridge, "load_weights"),
):
    watch(of, called)
