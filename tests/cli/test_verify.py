"""`plan verify`: what it says where it cannot measure, and how it shows what was measured."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console import EXAMPLE, plan
from golden_files import check_golden

from measure.verify.command import documents_per_pack, row_of, stages_of
from measure.verify.report import Verified, compared, of_loss, to_json, to_text
from measure.verify.row import Row
from planner.errors import EnvironmentLacksError, UsageError
from planner.model_files import MODELS_FOLDER, resolve_model
from planner.run import Run, read_run
from planner.workload import Workload

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


MEASURED = {  # of a stage's memory, as the measuring and the plan name them
    "steady": "steady",
    "forward_backward_peak": "peak_forward_backward_at_imbalance",
    "optimizer_peak": "peak_optimizer_step",
    "peak_allocated": "peak_allocated_at_imbalance",
    "peak_reserved": "peak_reserved",
    "device_used": "device_used",
}
LOGITS = "megatron/core/tensor_parallel/layers.py:366:forward < megatron/core/b.py:1:f"
OTHERS = "megatron/core/a.py:1:f < megatron/core/tensor_parallel/layers.py:2:g"


def _workload(run: Run) -> Workload:
    assert run.asked is not None
    return run.asked.workload


def _row(run: Run, number: int = 0, config: dict[str, Any] | None = None) -> Row:
    return row_of(run, run.plan.stages[number], _workload(run), config or {})


def _measured(run: Run, stage: int) -> dict[str, Any]:
    """A result that is a twentieth above every prediction."""
    predicted = run.plan.stages[stage]
    memory = {**predicted.memory_bytes}
    memory["device_used"] -= memory["nccl"]
    return {
        **{name: memory[planned] * 1.05 for name, planned in MEASURED.items()},
        "after_build": {"allocated": memory["after_build"] * 1.05},
        "parameters": predicted.parameters,
        "compute_seconds": predicted.compute_seconds * 1.05,
        "expert_tokens": {"balanced": 1000, "mean": 1180.0, "most": 1300},
        "host_speed": [
            {"python": 4e-5, "launch": 4.1e-6, "layer": 3.1e-4},
            {"python": 4e-5, "launch": 4.4e-6, "layer": 3.3e-4},
        ],
        "trace": {"peak": 60 * 2**30, "at_peak": [[2**30, 2, OTHERS], [2**29, 1, LOGITS]]},
        "left": {"allocated": 0},
    }


def _verified(run: Run, stage: int = 0, **changed: Any) -> Verified:
    return Verified(
        stage=run.plan.stages[stage],
        row=_row(run, stage),
        documents=1.0,
        result={**_measured(run, stage), **changed},
    )


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


def test_a_run_that_does_not_say_what_it_was_planned_for_is_refused(
    run_folder: Path, tmp_path: Path
) -> None:
    content = json.loads((run_folder / "run.json").read_text())
    del content["asked"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    ran = plan("verify", str(tmp_path))
    assert ran.status == 2
    assert "does not say what its plan was made for" in ran.err


def test_the_fullest_stage_is_measured_when_none_is_named(run: Run) -> None:
    (fullest,) = stages_of(run, [])
    assert fullest.memory_bytes["peak_reserved"] == max(
        stage.memory_bytes["peak_reserved"] for stage in run.plan.stages
    )


def test_stages_are_measured_in_the_order_of_their_names_each_once(run: Run) -> None:
    assert [stage.stage for stage in stages_of(run, [1, 0, 1])] == [1, 0]
    assert stages_of(run, [], every=True) == run.plan.stages
    for numbers, every in (([len(run.plan.stages)], False), ([0], True)):
        with pytest.raises(UsageError):
            stages_of(run, numbers, every=every)


def test_the_rank_trains_with_the_arguments_of_the_run(run: Run) -> None:
    stage = run.plan.stages[-1]
    row = _row(run, -1, {"num_experts": 128})
    assert (row.world_size, row.rank) == (run.plan.layout.world_size, stage.worst_rank)
    words = row.training_argv(Path("model"))
    for flag, value in run.plan.args.items():
        if flag not in ("num_train_epochs", "train_iters") and isinstance(value, str | int):
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            assert words[words.index(f"--{flag}") + 1] == shown


def test_the_rank_has_the_load_and_the_documents_that_were_planned_for(run: Run) -> None:
    row = _row(run, 0, {"num_experts": 128})
    assert row.expert_load == _workload(run).routing_imbalance == 1.2
    assert row.documents_per_pack == 1
    assert row.routing_kwargs() == {"moe_router_force_biased": -1.0}
    assert row.routing_kwargs(can_bias=False) == {"moe_router_force_load_balancing": True}


def test_experts_get_no_more_than_all_tokens(run: Run) -> None:
    workload = replace(_workload(run), routing_imbalance=100.0)
    row = row_of(run, run.plan.stages[0], workload, {})
    assert row.expert_load == run.plan.layout.ep


@pytest.mark.parametrize(
    ("pack", "document", "cp", "expected"),
    [
        (8192, None, 1, 1),
        (8192, 700, 1, 16),  # 512 is nearer than 1024
        (8192, 1024, 2, 8),
        (8192, 1, 2, 2048),  # of four tokens: CP parts each in four
        (6000, 2600, 1, 2),
        (8191, 100, 1, 1),  # nothing divides it
    ],
)
def test_documents_are_as_long_as_planned_where_they_divide_a_pack(
    pack: int, document: int | None, cp: int, expected: int
) -> None:
    workload = Workload(seq_length=pack, mean_document_tokens=document)
    assert documents_per_pack(workload, cp) == expected


@pytest.mark.parametrize("path", sorted(MODELS_FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_the_routing_of_every_sparse_model_is_forced(run: Run, path: Path) -> None:
    row = _row(run, 0, json.loads(path.read_text()))
    assert bool(row.routing_kwargs()) == resolve_model(path.stem).is_moe


def test_golden_what_is_shown(run: Run) -> None:
    check_golden("cli/verify.txt", to_text(run, _verified(run)))


def test_documents_that_do_not_divide_a_pack_and_a_gpu_that_others_use_are_named(run: Run) -> None:
    found = replace(_verified(run), documents=11.7)
    found.result["device_used"] = found.result["peak_reserved"] + 2**31
    text = " ".join(to_text(run, found).split())
    assert "1 document of 8192 tokens, the nearest to the 700.171 that are planned" in text
    assert "2.00 GiB in use are not of torch's allocator" in text


def test_every_line_is_at_the_load_that_was_planned_for(run: Run) -> None:
    pairs = compared(_verified(run))
    assert set(pairs) >= {"peak_forward_backward", "peak_optimizer_step", "compute_seconds"}
    for name, pair in pairs.items():
        expected = 0 if name == "parameters" else 1 / 1.05 - 1
        assert pair.error == pytest.approx(expected), name
    memory = run.plan.stages[0].memory_bytes
    assert pairs["peak_allocated"].predicted > memory["peak_allocated"]  # at balance


def test_the_json_has_each_quantity_predicted_and_measured(run: Run) -> None:
    content = json.loads(to_json(run, [_verified(run), _verified(run, 1)]))
    assert [each["stage"] for each in content["stages"]] == [0, 1]
    first = content["stages"][0]
    assert first["expert_load"] == {"planned": 1.2, "measured": 1.18}
    assert first["documents_per_pack"] == {"planned": 1.0, "measured": 1}
    assert first["compared"]["peak_allocated"]["error"] == pytest.approx(1 / 1.05 - 1)
    terms = sum(first["predicted_terms"].values())
    assert first["compared"]["peak_allocated"]["predicted"] == terms


def test_the_json_of_what_was_measured_before_an_error_has_both(run: Run) -> None:
    error = EnvironmentLacksError("verify.failed", rank=8, stage="1", reason="out of memory")
    content = json.loads(to_json(run, [_verified(run)], error))
    assert content["error"]["id"] == "verify.failed"
    assert len(content["stages"]) == 1


def test_call_sites_of_the_loss_are_told_from_others() -> None:
    fused = "site/megatron/core/fusions/fused_cross_entropy.py:18:calculate < a.py:1:f"
    embedding = "megatron/core/models/common/embeddings/language_model_embedding.py:111:forward"
    assert of_loss(LOGITS) and of_loss(fused)
    assert not of_loss(OTHERS)
    assert not of_loss(f"{LOGITS.split(' < ')[0]} < {embedding}")
