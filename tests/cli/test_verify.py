"""`plan verify`: what it says where it cannot measure, and how it shows what was measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from console import EXAMPLE, plan
from golden_files import check_golden

from measure.verify.command import row_of, stage_of, to_json, to_text
from planner.errors import UsageError
from planner.model_files import MODELS_FOLDER
from planner.run import Run, read_run

RUN = "run"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose model folder lies beside it."""
    folder = tmp_path_factory.mktemp("verify")
    model = folder / "models" / "Qwen3-30B-A3B"
    model.mkdir(parents=True)
    shutil.copy(MODELS_FOLDER / "Qwen3-30B-A3B.json", model / "config.json")
    where = ("--model-path", str(model), "--dataset", "train.jsonl")
    ran = plan(*EXAMPLE, *where, "--output-dir", str(folder / RUN))
    assert ran.status == 0, ran.err
    return folder / RUN


@pytest.fixture(scope="module")
def run(run_folder: Path) -> Run:
    return read_run(run_folder)


def _measured(run: Run, stage: int) -> dict[str, Any]:
    """A result that is a twentieth above every prediction."""
    predicted = run.plan.stages[stage]
    more = {
        name: size * 1.05
        for name, size in predicted.memory_bytes.items()
        if isinstance(size, int | float)
    }
    return {
        **more,
        "after_build": {"allocated": more["after_build"]},
        "parameters": predicted.parameters,
        "compute_seconds": predicted.compute_seconds * 1.05,
        "trace": {"at_peak": [[2**30, 2, "megatron/core/a.py:1:f < megatron/core/b.py:2:g"]]},
    }


def test_without_the_training_stack_it_says_what_is_missing(run_folder: Path) -> None:
    ran = plan("verify", str(run_folder))
    assert ran.status == 4
    assert ran.err.startswith("error: the training stack is not installed here:")
    assert "transformer_engine" in ran.err


def test_its_failures_are_json_too(run_folder: Path) -> None:
    ran = plan("verify", str(run_folder), "--json")
    assert ran.status == 4
    assert json.loads(ran.out)["error"]["id"] == "verify.no_stack"


def test_a_stage_that_is_not_there_is_refused(run_folder: Path) -> None:
    ran = plan("verify", str(run_folder), "--stage", "99")
    assert ran.status == 2
    assert "the run has no stage 99" in ran.err


def test_a_model_folder_that_is_not_there_is_refused(run_folder: Path, tmp_path: Path) -> None:
    content = json.loads((run_folder / "run.json").read_text())
    content["site"]["model_path"] = str(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text(json.dumps(content))
    ran = plan("verify", str(tmp_path))
    assert ran.status == 2
    assert "config.json cannot be read: no such file or directory" in ran.err


@pytest.mark.parametrize("content", ["[1]", "{"])
def test_a_config_that_is_none_is_refused(run_folder: Path, tmp_path: Path, content: str) -> None:
    run_json = json.loads((run_folder / "run.json").read_text())
    run_json["site"]["model_path"] = str(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(run_json))
    (tmp_path / "config.json").write_text(content)
    ran = plan("verify", str(tmp_path))
    assert ran.status == 2
    assert "config.json cannot be read" in ran.err


def test_the_fullest_stage_is_measured_when_none_is_named(run: Run) -> None:
    fullest = stage_of(run, None).memory_bytes["peak_reserved"]
    assert fullest == max(stage.memory_bytes["peak_reserved"] for stage in run.plan.stages)
    with pytest.raises(UsageError):
        stage_of(run, len(run.plan.stages))


def test_the_rank_trains_with_the_arguments_of_the_run(run: Run) -> None:
    stage = run.plan.stages[-1]
    row = row_of(run, stage, {"num_experts": 128})
    assert (row.world_size, row.rank) == (run.plan.layout.world_size, stage.worst_rank)
    words = row.training_argv(Path("model"))
    for flag, value in run.plan.args.items():
        if flag not in ("num_train_epochs", "train_iters") and isinstance(value, str | int):
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            assert words[words.index(f"--{flag}") + 1] == shown


def test_golden_what_is_shown(run: Run) -> None:
    stage = run.plan.stages[0]
    row = row_of(run, stage, {})
    check_golden("cli/verify.txt", to_text(run, stage, row, _measured(run, 0)))


def test_the_json_has_each_quantity_predicted_and_measured(run: Run) -> None:
    stage = run.plan.stages[0]
    content = json.loads(to_json(stage, row_of(run, stage, {}), _measured(run, 0)))
    assert content["compared"]["peak_allocated"]["error"] == pytest.approx(1 / 1.05 - 1)
    assert content["compared"]["parameters"]["error"] == 0
