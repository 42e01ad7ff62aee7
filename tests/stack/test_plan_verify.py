"""`plan verify` on a run folder as `plan` writes it: the real stack trains each stage's worst rank,
on a CPU that answers for the GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from console import plan

from stack.models import TINY_QWEN3_MOE, bundled_config, write_model
from stack.real_stack import HERE, MEGATRON_CORES, REPOSITORY, python_path

pytestmark = [pytest.mark.stack, pytest.mark.slow]

LAYERS = [[[1, 2, 3]], [[4]]]  # of the chunks of both stages
ASKED = {
    "gpus": 4,
    "topology": "h100-8x-ib",
    "stack": "gpu-kit-2026-11",
    "seq-length": 128,
    "global-batch-size": 8,
    "mean-document-tokens": 30,
    "routing-imbalance": 1.5,
    "set": "pipeline_model_parallel_layout=Ettt|tL",
}


def _planned(root: Path, config: dict[str, Any], asked: dict[str, object]) -> Path:
    """The run folder of a model, as `plan` writes it, of the fastest layout with experts on two
    ranks."""
    model = write_model(root / "model", config)
    words = [word for name, value in asked.items() for word in (f"--{name}", value)]
    words += ["--model", model]
    plans = plan(*words, "--json", "--top", 100).answer["plans"]
    experts = [each["layout"]["expert_model_parallel_size"] for each in plans]
    site = ("--model-path", model, "--dataset", "train.jsonl", "--load", "direct")
    ran = plan(*words, *site, "--pick", experts.index(2) + 1, "--output-dir", root / "run")
    assert ran.status == 0, ran.err
    return root / "run"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the tiny model in two stages, under EP2."""
    return _planned(tmp_path_factory.mktemp("plan_verify"), TINY_QWEN3_MOE, ASKED)


def _verify(
    run_folder: Path, megatron_core: str, *words: str, size: int = 2**20, status: int = 0
) -> str:
    """What the command prints, in a process of its own, where `size` is all memory's."""
    ran = subprocess.run(
        [sys.executable, "-m", "stack.plan_verify_on_cpu", "verify", str(run_folder), *words],
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "BYTES": str(size),
            "PYTHONPATH": python_path(megatron_core, HERE.parent, REPOSITORY),
        },
        cwd=run_folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == status, ran.stdout[-2000:] + ran.stderr[-4000:]
    return ran.stdout


@pytest.mark.parametrize("megatron_core", MEGATRON_CORES)
def test_every_stage_is_built_and_trained_under_what_the_plan_is_for(
    megatron_core: str, run_folder: Path
) -> None:
    answer: dict[str, Any] = json.loads(
        _verify(run_folder, megatron_core, "--every-stage", "--json")
    )
    assert [(each["stage"], each["rank"]) for each in answer["stages"]] == [(0, 0), (1, 2)]
    for each, layers in zip(answer["stages"], LAYERS, strict=True):
        assert each["measured"]["layer_numbers"] == layers
        assert each["compared"]["parameters"]["error"] == 0
        assert each["expert_load"]["planned"] == 1.5
        assert each["expert_load"]["measured"] == pytest.approx(1.5, rel=0.05)
        assert each["documents_per_pack"]["measured"] == 4  # of 32 tokens


def test_a_rank_that_leaves_much_keeps_the_next_from_being_measured_in_its_process(
    run_folder: Path,
) -> None:
    words = ("--every-stage", "--json")
    answer = json.loads(_verify(run_folder, "0.18.1", *words, size=2**30, status=4))
    assert [each["stage"] for each in answer["stages"]] == [0]
    assert answer["error"]["id"] == "verify.left"
    assert "stage 0 left 1.00 GiB" in answer["error"]["message"]


def test_stages_are_printed_one_after_the_other(run_folder: Path) -> None:
    text = _verify(run_folder, "0.18.1", "--stage", "1", "--stage", "0")
    ranks = [line for line in text.splitlines() if "rank" in line and "stage" in line]
    assert ranks == [
        "model: rank 2 of 4, stage 1 of 2",
        "model: rank 0 of 4, stage 0 of 2",
    ]


def test_a_language_model_beside_a_vision_tower_is_measured_too(tmp_path: Path) -> None:
    config = bundled_config("Llama-4-Scout-17B-16E-Instruct")
    heads = {"num_attention_heads": 4, "hidden_size": 256, "num_hidden_layers": 4}
    experts = {"num_local_experts": 4, "intermediate_size": 64, "intermediate_size_mlp": 128}
    text = {**heads, **experts, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512}
    config["text_config"] |= text
    config["vision_config"] |= {**heads, "hidden_size": 64, "intermediate_size": 256}
    asked = {name: value for name, value in ASKED.items() if name not in ("gpus", "set")}
    folder = _planned(tmp_path, config, {**asked, "gpus": 2})

    (stage,) = json.loads(_verify(folder, "0.18.1", "--json"))["stages"]
    assert stage["compared"]["parameters"]["error"] == 0
    assert stage["measured"]["layer_numbers"] == [[1, 2, 3, 4]]
    assert stage["expert_load"]["measured"] is not None
