"""What planner.memory_terms says that recomputed layers keep between steps, in real training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from launch.run_folder import write_run_folder
from planner.layout import NO_RECOMPUTE, Recompute
from planner.workload import Load
from stack import models
from stack.emitted import run_script
from stack.layouts import FULL
from stack.test_end_to_end import STEPS, tiny_run

pytestmark = [pytest.mark.stack, pytest.mark.slow]

LAYERS, HIDDEN = 24, 64
PLUGIN = Path(__file__).with_name("kept_plugin.py")


def held_after_steps(
    folder: Path, recompute: Recompute, monkeypatch: pytest.MonkeyPatch
) -> list[list[list[dict[str, object]]]]:
    """By rank and step, of `megatron sft` under EP2: what each layer's dispatcher holds."""
    changes = {"num_hidden_layers": LAYERS, "max_window_layers": LAYERS}
    model = models.write_tiny_qwen3_moe(folder / "model", **changes)
    dataset = models.write_toy_dataset(folder / "toy.jsonl")
    run = replace(tiny_run(model, dataset, recompute=recompute), load=Load.DIRECT)
    write_run_folder(run, folder / "run")
    monkeypatch.setenv("KEPT_FOLDER", str(folder))
    plugged = ("--external_plugins", str(PLUGIN), "--callbacks", "kept")
    run_script(folder / "run" / "train.sh", *plugged, megatron_core="0.18.1")
    pages = [(folder / f"rank{rank}.jsonl").read_text("utf-8").splitlines() for rank in range(2)]
    return [[json.loads(line)["held"] for line in page] for page in pages]


def test_each_recomputed_sparse_layer_keeps_its_input_and_its_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 layers: the term `kept_graph`, which is as large after each step."""
    for steps in held_after_steps(tmp_path, FULL, monkeypatch):
        assert len(steps) == STEPS
        for layers in steps:
            assert len(layers) == LAYERS
            for held in layers:
                assert len(held) == 1, "one tensor, at which the layer was recomputed"
                assert held[0]["shape"][-1] == HIDDEN and held[0]["gradient"]
                assert held[0]["dtype"] == "torch.bfloat16"


def test_without_recomputation_nothing_is_kept_beside_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in held_after_steps(tmp_path, NO_RECOMPUTE, monkeypatch):
        assert steps == [[[]] * LAYERS] * STEPS
