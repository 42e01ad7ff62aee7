"""One rank of a run is built and trained by the real stack, with nobody on the other ranks."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from measure.verify.row import Row, read_rows
from stack.models import TINY_QWEN3_MOE, write_model
from stack.real_stack import HERE, REPOSITORY, RealStack, as_argv, python_path

pytestmark = pytest.mark.stack

MEGATRON_CORE = "0.18.1"

FLAGS: dict[str, Any] = {
    "torch_dtype": "bfloat16",
    "finetune": True,
    "check_model": False,
    "add_version": False,
    "use_distributed_optimizer": True,
    "overlap_grad_reduce": True,
    "overlap_param_gather": True,
    "micro_batch_size": 1,
    "max_length": 128,
    "packing": True,
    "attention_backend": "auto",
    "gradient_accumulation_fusion": False,
    "moe_grouped_gemm": True,
    "moe_permute_fusion": True,
    "moe_aux_loss_coeff": 0.001,
    "recompute_granularity": "none",
}
FULL = {
    "recompute_granularity": "full",
    "recompute_method": "uniform",
    "recompute_num_layers": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A rank and the flags of its layout."""

    world_size: int
    rank: int
    flags: Mapping[str, object]
    layers: list[list[int]]
    expert_load: float = 1.0


EP2 = {"expert_model_parallel_size": 2, "global_batch_size": 4}
PP2 = {"pipeline_model_parallel_size": 2, "expert_model_parallel_size": 2, "global_batch_size": 8}
INTERLEAVED = {
    "pipeline_model_parallel_size": 2,
    "virtual_pipeline_model_parallel_size": 2,
    "global_batch_size": 8,
}
FOLDED = {
    "tensor_model_parallel_size": 2,
    "sequence_parallel": True,
    "expert_tensor_parallel_size": 2,
    "expert_model_parallel_size": 2,
    "global_batch_size": 8,
}
LORA = {**PP2, "tuner_type": "lora", "target_modules": ["all-linear"], "merge_lora": False}
CASES = {
    "ep": Case(world_size=2, rank=1, flags={**EP2, **FULL}, layers=[[1, 2, 3, 4]]),
    "first": Case(world_size=4, rank=0, flags=PP2, layers=[[1, 2]]),
    "hot": Case(world_size=4, rank=3, flags=PP2, layers=[[3, 4]], expert_load=1.5),
    "interleaved": Case(world_size=4, rank=2, flags=INTERLEAVED, layers=[[2], [4]]),
    "folded": Case(world_size=4, rank=1, flags=FOLDED, layers=[[1, 2, 3, 4]]),
    "lora": Case(world_size=4, rank=0, flags=LORA, layers=[[1, 2]]),
}
REFUSED = "refused"  # 4 experts over 3 ranks


def _row(name: str, case: Case) -> Row:
    return Row(
        id=name,
        family="tiny",
        set_aside=False,
        world_size=case.world_size,
        rank=case.rank,
        stage="any",
        config=TINY_QWEN3_MOE,
        model_type="qwen3_moe",
        template="qwen3",
        argv=as_argv({**FLAGS, **case.flags}),
        expert_load=case.expert_load,
    )


def _verify(rows: Path, results: Path) -> str:
    """Runs the command over a file of rows; returns what it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "stack.verify_on_cpu", str(rows), str(results)],
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": python_path(MEGATRON_CORE, HERE.parent, REPOSITORY),
        },
        cwd=rows.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return ran.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all cases were measured, one that the stack refuses in their midst."""
    folder = tmp_path_factory.mktemp("verify")
    rows = [_row(name, case) for name, case in CASES.items()]
    refused = {"expert_model_parallel_size": 3, "global_batch_size": 6}
    impossible = Case(world_size=3, rank=0, flags=refused, layers=[])
    rows.insert(1, _row(REFUSED, impossible))
    (folder / "rows.jsonl").write_text("".join(row.to_json() + "\n" for row in rows))
    _verify(folder / "rows.jsonl", folder / "results.jsonl")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    """What was measured, by row."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    return {result["id"]: result for result in map(json.loads, lines) if "ok" in result}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_rank_is_built_as_in_its_run_and_trained(
    name: str, results: dict[str, Any], stacks: dict[str, RealStack], tmp_path: Path
) -> None:
    case, result = CASES[name], results[name]
    assert result["ok"], result["error"]
    model = write_model(tmp_path / "model", TINY_QWEN3_MOE)
    flags = {**FLAGS, **case.flags, "model_type": "qwen3_moe", "template": "qwen3"}
    chunks = stacks[MEGATRON_CORE].build(model, case.world_size, flags, case.rank)
    assert result["parameters"] == sum(chunk["total"] for chunk in chunks)
    assert result["trained_parameters"] == sum(chunk["trainable_total"] for chunk in chunks)
    assert result["expert_parameters"] == sum(chunk["expert"] for chunk in chunks)
    assert result["layer_numbers"] == case.layers
    assert len(result["steps"]) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_experts_get_the_tokens_that_were_asked_for(name: str, results: dict[str, Any]) -> None:
    tokens = results[name]["expert_tokens"]
    assert tokens["mean"] / tokens["balanced"] == pytest.approx(CASES[name].expert_load, rel=0.1)


@pytest.mark.slow
def test_a_row_that_the_stack_refuses_says_why_and_the_next_is_measured(
    results: dict[str, Any],
) -> None:
    assert not results[REFUSED]["ok"]
    assert "moe_layer.py" in results[REFUSED]["where"]
    assert list(results)[:3] == ["ep", REFUSED, "first"]


@pytest.mark.slow
def test_rows_that_were_measured_are_passed_over(folder: Path) -> None:
    before = (folder / "results.jsonl").read_text()
    assert _verify(folder / "rows.jsonl", folder / "results.jsonl") == ""
    assert (folder / "results.jsonl").read_text() == before


def test_a_row_survives_its_file(tmp_path: Path) -> None:
    rows = [_row(name, case) for name, case in CASES.items()]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(row.to_json() + "\n" for row in rows))
    assert list(read_rows(path)) == rows


def test_a_line_that_is_no_row_is_refused() -> None:
    line = json.loads(replace(_row("ep", CASES["ep"]), id="x").to_json())
    with pytest.raises(ValueError, match="colour"):
        Row.from_json(json.dumps({**line, "colour": "red"}))
