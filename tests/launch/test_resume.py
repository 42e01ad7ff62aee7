"""train.sh, started again: it goes on from the newest complete checkpoint, or says why not."""

import json
from pathlib import Path
from typing import Any

import pytest
from recorder import Ran, run_script
from runs import make_run

from launch.arguments import train_args
from launch.run_folder import write_run_folder
from planner.layout import PipelineSplit
from planner.run import Run
from planner.workload import Load, TunerType

TWO_NODES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-0", "NPROC_PER_NODE": "8"}
# What ms-swift writes down for what it is not told.
DEFAULTS = {
    "expert_model_parallel_size": 1,
    "expert_tensor_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": None,
    "decoder_first_pipeline_num_layers": None,
    "decoder_last_pipeline_num_layers": None,
    "pipeline_model_parallel_layout": None,
    "lora_rank": 8,
}


def start(run: Run, tmp_path: Path, *words: str) -> Ran:
    """Run train.sh, of a folder that is written when there is none."""
    folder = tmp_path / "run"
    if not folder.exists():
        write_run_folder(run, folder)
    return run_script(folder / "train.sh", *words, env=TWO_NODES)


def checkpoint(
    run: Run, tmp_path: Path, number: int, *, complete: bool = True, **changed: Any
) -> None:
    """Write what ms-swift leaves of a checkpoint of the run; of a torn one, no index."""
    folder = tmp_path / "run" / "output" / f"checkpoint-{number}"
    iteration = folder / f"iter_{number:07d}"
    iteration.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text(str(number))
    args = DEFAULTS | train_args(run) | changed
    (folder / "args.json").write_text(json.dumps(args, indent=2))
    if complete:
        (iteration / ".metadata").write_text("index")
        (iteration / "metadata.json").write_text("{}")


def flags(ran: Ran) -> list[str]:
    """The words after the file of arguments."""
    assert ran.status == 0, ran.output
    (call,) = ran.calls
    assert call.argv[:2] == ["sft", "train.yaml"]
    return call.argv[2:]


@pytest.fixture
def run() -> Run:
    return make_run(pp=2, ep=8, load=Load.DIRECT)


def written(run: Run, tmp_path: Path) -> None:
    write_run_folder(run, tmp_path / "run")


def test_the_first_start_has_no_flags_of_resuming(run: Run, tmp_path: Path) -> None:
    assert flags(start(run, tmp_path, "--seed", "1")) == ["--seed", "1"]


def test_the_newest_complete_checkpoint_is_gone_on_from(run: Run, tmp_path: Path) -> None:
    """By number, not by name; a torn one is passed over, and said; the user's flags come last."""
    written(run, tmp_path)
    for number in (90, 200, 1000):
        checkpoint(run, tmp_path, number)
    checkpoint(run, tmp_path, 1200, complete=False)
    ran = start(run, tmp_path, "--seed", "1")
    resuming = ["--mcore_model", "output/checkpoint-1000", "--finetune", "false"]
    assert flags(ran) == [*resuming, "--seed", "1"]
    assert "train.sh: not complete, passed over: checkpoint-1200\n" in ran.output
    assert "going on from output/checkpoint-1000\n" in ran.output


def test_with_torn_checkpoints_only_training_starts_from_the_beginning(
    run: Run, tmp_path: Path
) -> None:
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200, complete=False)
    assert flags(start(run, tmp_path)) == []


TORN = {
    "no index": lambda at: (at / "iter_0000200/.metadata").unlink(),
    "an empty index": lambda at: (at / "iter_0000200/.metadata").write_text(""),
    "no form": lambda at: (at / "iter_0000200/metadata.json").unlink(),
    "an empty form": lambda at: (at / "iter_0000200/metadata.json").write_text(""),
    "no tracker": lambda at: (at / "latest_checkpointed_iteration.txt").unlink(),
    "an empty tracker": lambda at: (at / "latest_checkpointed_iteration.txt").write_text(""),
    "a tracker that is no number": lambda at: (at / "latest_checkpointed_iteration.txt").write_text(
        "a[$(touch pwned)]"
    ),
    "another iteration": lambda at: (at / "latest_checkpointed_iteration.txt").write_text("20"),
}


@pytest.mark.parametrize("how", TORN)
def test_a_checkpoint_torn_in_any_way_is_passed_over(run: Run, tmp_path: Path, how: str) -> None:
    written(run, tmp_path)
    for number in (100, 200):
        checkpoint(run, tmp_path, number)
    TORN[how](tmp_path / "run" / "output" / "checkpoint-200")
    ran = start(run, tmp_path)
    assert flags(ran)[:2] == ["--mcore_model", "output/checkpoint-100"]
    assert "not complete, passed over: checkpoint-200\n" in ran.output
    assert not list(tmp_path.rglob("pwned"))


def test_adapters_go_on_from_an_adapter(tmp_path: Path) -> None:
    run = make_run(ep=8, tuner_type=TunerType.LORA, load=Load.DIRECT)
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200)
    expected = ["--mcore_adapter", "output/checkpoint-200", "--finetune", "false"]
    assert flags(start(run, tmp_path)) == expected


def test_converted_weights_are_not_needed_beside_a_checkpoint_of_the_whole_model(
    tmp_path: Path,
) -> None:
    run = make_run(ep=8, load=Load.MCORE)
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200)
    assert "--mcore_model" in flags(start(run, tmp_path))


def test_a_model_without_experts_goes_on(tmp_path: Path) -> None:
    """ms-swift writes sizes of 1 for experts that the run does not speak of."""
    run = make_run("Qwen2.5-7B", tp=4, load=Load.DIRECT)
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200)
    assert "--mcore_model" in flags(start(run, tmp_path))


def test_a_split_by_hand_goes_on(tmp_path: Path) -> None:
    """Its virtual stages follow from it, and are not compared."""
    split = PipelineSplit((((0, 0),), ((0, 24),), ((24, 48),), ((48, 48),)))
    run = make_run(pp=4, ep=4, load=Load.DIRECT, split=split)
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200, virtual_pipeline_model_parallel_size=1)
    assert "pipeline_model_parallel_layout" in train_args(run)
    assert "--mcore_model" in flags(start(run, tmp_path))


def test_adapters_need_the_weights_that_they_belong_to(tmp_path: Path) -> None:
    run = make_run(ep=8, tuner_type=TunerType.LORA, load=Load.MCORE)
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200)
    ran = start(run, tmp_path)
    assert (ran.status, ran.calls) == (66, [])
    assert "run convert_hf_to_mcore.sh first" in ran.output


OTHER = {
    "tensor_model_parallel_size": 2,
    "pipeline_model_parallel_size": 1,
    "expert_model_parallel_size": 4,
    "expert_tensor_parallel_size": 2,
    "pipeline_model_parallel_layout": "Et*20|t*28L",
    "virtual_pipeline_model_parallel_size": 2,
}


@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_another_layout_is_refused_by_name(
    run: Run, tmp_path: Path, name: str
) -> None:
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200, **{name: OTHER[name]})
    ran = start(run, tmp_path)
    assert (ran.status, ran.calls) == (66, [])
    assert f"checkpoint-200 was saved with {name}={json.dumps(OTHER[name])}, this" in ran.output


@pytest.mark.parametrize("name", OTHER)
def test_fully_reshardable_states_go_into_any_layout(run: Run, tmp_path: Path, name: str) -> None:
    written(run, tmp_path)
    changed = {"dist_ckpt_optim_fully_reshardable": True, name: OTHER[name]}
    checkpoint(run, tmp_path, 200, **changed)
    assert "--mcore_model" in flags(start(run, tmp_path))


def test_adapters_and_whole_models_do_not_go_on_from_each_other(run: Run, tmp_path: Path) -> None:
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200, tuner_type="lora", dist_ckpt_optim_fully_reshardable=True)
    ran = start(run, tmp_path)
    assert (ran.status, ran.calls) == (66, [])
    assert 'saved with tuner_type="lora", this run has "full"' in ran.output


def test_other_numbers_of_replicas_go_on(run: Run, tmp_path: Path) -> None:
    """What counts is how a rank's parameters are laid out, not how many ranks have the same."""
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200, data_parallel_size=99, context_parallel_size=4)
    assert "--mcore_model" in flags(start(run, tmp_path))


def test_a_run_that_cannot_be_resumed_says_so_at_its_first_start(tmp_path: Path) -> None:
    run = make_run(ep=8, load=Load.DIRECT, settings=("no_save_optim=true",))
    ran = start(run, tmp_path)
    assert flags(ran) == []
    assert ran.output.startswith("this run cannot be resumed: ")


def test_what_cannot_be_resumed_is_not_started_over_its_checkpoints(tmp_path: Path) -> None:
    run = make_run(ep=8, load=Load.DIRECT, settings=("no_save_optim=true",))
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200, complete=False)
    ran = start(run, tmp_path)
    assert (ran.status, ran.calls) == (66, [])
    assert "move it away to start again" in ran.output


@pytest.mark.parametrize("share", [0, 0.5, None])
def test_a_checkpoint_without_all_its_arguments_is_not_loaded(
    run: Run, tmp_path: Path, share: float | None
) -> None:
    """Cut short, they would say nothing of the layout, and any would do."""
    written(run, tmp_path)
    checkpoint(run, tmp_path, 200)
    path = tmp_path / "run" / "output" / "checkpoint-200" / "args.json"
    text = path.read_text()
    path.unlink()
    if share is not None:
        path.write_text(text[: int(share * len(text))])
    ran = start(run, tmp_path)
    assert (ran.status, ran.calls) == (66, [])
    assert "args.json is missing" in ran.output
