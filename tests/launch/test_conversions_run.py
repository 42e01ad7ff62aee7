"""Conversion scripts, run for real with stand-ins for ms-swift: what they start and refuse."""

from pathlib import Path

import pytest
from recorder import Ran, run_script, stand_ins
from runs import make_run

from launch.run_folder import write_run_folder
from planner.site import Site
from planner.workload import TunerType

TWO_NODES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-0", "NPROC_PER_NODE": "8"}


def checkpoint(folder: Path, number: int, *, complete: bool = True) -> None:
    """Write what Megatron-Core leaves of a checkpoint; of a torn one, the tracker but no index."""
    iteration = folder / "output" / f"checkpoint-{number}" / f"iter_{number:07d}"
    iteration.mkdir(parents=True)
    (iteration.parent / "latest_checkpointed_iteration.txt").write_text(str(number))
    (iteration / "common.pt").touch()
    if complete:
        (iteration / "metadata.json").write_text("{}")
        (iteration / ".metadata").write_text("index")


def export_flag(ran: Ran, flag: str) -> str:
    """Return the value of a flag of the only call."""
    assert ran.status == 0, ran.output
    (call,) = ran.calls
    return call.argv[call.argv.index(flag) + 1]


def test_the_newest_complete_checkpoint_is_converted_back(tmp_path: Path) -> None:
    """By number, not by name; torn checkpoints, merged copies and other folders are passed over."""
    write_run_folder(make_run(ep=8), tmp_path / "run")
    for number in (9, 200, 1000):
        checkpoint(tmp_path / "run", number)
    checkpoint(tmp_path / "run", 1200, complete=False)
    (tmp_path / "run" / "output" / "checkpoint-1400-merged").mkdir()
    ran = run_script(tmp_path / "run" / "convert_mcore_to_hf.sh")
    assert export_flag(ran, "--mcore_model") == "output/checkpoint-1000"
    assert (tmp_path / "run" / "hf" / "checkpoint-1000").is_dir()


def test_a_checkpoint_that_is_named_is_converted_back(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    checkpoint(tmp_path / "run", 200)
    ran = run_script(tmp_path / "run" / "convert_mcore_to_hf.sh", "output/checkpoint-9")
    assert export_flag(ran, "--mcore_model") == "output/checkpoint-9"


@pytest.mark.parametrize("named", [(), ("output/checkpoint-5",), ("nowhere",)])
def test_a_torn_checkpoint_is_never_converted(tmp_path: Path, named: tuple[str, ...]) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    checkpoint(tmp_path / "run", 5, complete=False)
    ran = run_script(tmp_path / "run" / "convert_mcore_to_hf.sh", *named)
    assert (ran.status, ran.calls) == (66, [])
    assert "no complete checkpoint" in ran.output


def test_adapters_are_merged_into_the_model_that_they_belong_to(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8, tuner_type=TunerType.LORA), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    ran = run_script(tmp_path / "run" / "convert_mcore_to_hf.sh")
    assert export_flag(ran, "--mcore_adapter") == "output/checkpoint-9"
    assert export_flag(ran, "--mcore_model") == "mcore"
    assert export_flag(ran, "--merge_lora") == "true"


@pytest.mark.parametrize("script", ["convert_hf_to_mcore.sh", "convert_mcore_to_hf.sh"])
def test_a_conversion_is_whole_or_not_there_and_not_done_twice(tmp_path: Path, script: str) -> None:
    folder = tmp_path / "run"
    write_run_folder(make_run(ep=8), folder)
    checkpoint(folder, 9)
    target = folder / ("mcore" if script.endswith("mcore.sh") else "hf/checkpoint-9")
    failed = run_script(folder / script, env={"STAND_IN_STATUS": "3"})
    assert failed.status == 3
    assert not target.exists()
    left = target.with_name(target.name + ".partial") / "left"
    left.touch()
    assert run_script(folder / script).status == 0
    assert target.exists()
    assert not (target / "left").exists(), "what an interrupted conversion left is in the result"
    again = run_script(folder / script)
    assert (again.status, again.calls) == (0, [])
    assert "nothing to do" in again.output


@pytest.mark.parametrize("script", ["convert_hf_to_mcore.sh", "convert_mcore_to_hf.sh"])
def test_swift_export_converts_in_one_process_whatever_the_node_is(
    tmp_path: Path, script: str
) -> None:
    folder = tmp_path / "run"
    write_run_folder(make_run(ep=8), folder)
    checkpoint(folder, 9)
    ran = run_script(folder / script, env={**TWO_NODES, "CONVERTER": "swift"})
    assert ran.status == 0, ran.output
    assert (ran.calls[0].command, ran.calls[0].argv[0]) == ("swift", "export")


@pytest.mark.parametrize("script", ["convert_hf_to_mcore.sh", "convert_mcore_to_hf.sh"])
@pytest.mark.parametrize("tuner_type", TunerType)
def test_a_converter_that_is_not_known_is_refused(
    tmp_path: Path, script: str, tuner_type: TunerType
) -> None:
    write_run_folder(make_run(ep=8, tuner_type=tuner_type), tmp_path / "run")
    ran = run_script(tmp_path / "run" / script, env={"CONVERTER": "foo"})
    assert (ran.status, ran.calls) == (64, [])
    assert ran.output.startswith(f"{script}: CONVERTER=foo must be megatron")
    assert "swift" in ran.output
    assert len(ran.output.splitlines()) == 1


def test_swift_export_is_refused_where_it_would_lose_the_adapters(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8, tuner_type=TunerType.LORA), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    ran = run_script(tmp_path / "run" / "convert_mcore_to_hf.sh", env={"CONVERTER": "swift"})
    assert (ran.status, ran.calls) == (64, [])
    assert "CONVERTER=swift must be megatron" in ran.output


def test_a_folder_without_converted_weights_is_not_taken_for_them(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    (tmp_path / "run" / "mcore").mkdir()
    ran = run_script(tmp_path / "run" / "convert_hf_to_mcore.sh")
    assert (ran.status, ran.calls) == (66, [])
    assert "mcore is not complete: remove it" in ran.output


def test_a_dry_run_before_training_shows_how_a_checkpoint_will_be_converted(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    ran = run_script(tmp_path / "run" / "convert_mcore_to_hf.sh", env={"DRY_RUN": "1"})
    assert (ran.status, ran.calls) == (0, [])
    assert "--mcore_model output/checkpoint-N" in ran.output
    assert not (tmp_path / "run" / "hf").exists()


def test_a_conversion_wants_its_own_number_of_gpus(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    ran = run_script(tmp_path / "run" / "convert_hf_to_mcore.sh", env=TWO_NODES)
    assert (ran.status, ran.calls) == (65, [])
    assert "needs 8 GPUs" in ran.output and ran.output.endswith(": set NNODES=1\n")


@pytest.mark.parametrize(("node", "renames"), [("0", True), ("1", False)])
def test_only_the_first_node_puts_the_result_in_place(
    tmp_path: Path, node: str, renames: bool
) -> None:
    run = make_run("DeepSeek-V3", num_nodes=32, pp=16, ep=16)
    write_run_folder(run, tmp_path / "run")
    environment = {"NNODES": "4", "NODE_RANK": node, "MASTER_ADDR": "a"}
    ran = run_script(tmp_path / "run" / "convert_hf_to_mcore.sh", env=environment)
    assert ran.status == 0, ran.output
    assert (tmp_path / "run" / "mcore").exists() is renames


def test_another_node_takes_nothing_away(tmp_path: Path) -> None:
    """The first node removes what was left, before it starts and the others can write."""
    run = make_run("DeepSeek-V3", num_nodes=32, pp=16, ep=16)
    write_run_folder(run, tmp_path / "run")
    left = tmp_path / "run" / "mcore.partial" / "left"
    left.parent.mkdir()
    left.touch()
    environment = {"NNODES": "4", "NODE_RANK": "1", "MASTER_ADDR": "a"}
    run_script(tmp_path / "run" / "convert_hf_to_mcore.sh", env=environment)
    assert left.exists()


def test_an_adapter_can_be_converted_alone(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8, tuner_type=TunerType.LORA), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    ran = run_script(tmp_path / "run" / "convert_mcore_to_hf.sh", env={"ADAPTER": "1"})
    assert ran.status == 0, ran.output
    (call,) = ran.calls
    merges = [call.argv[i + 1] for i, word in enumerate(call.argv) if word == "--merge_lora"]
    assert merges[-1] == "false"  # the last one counts
    assert (tmp_path / "run" / "hf" / "checkpoint-9-adapter").is_dir()


@pytest.mark.parametrize("script", ["convert_hf_to_mcore.sh", "convert_mcore_to_hf.sh"])
@pytest.mark.parametrize("converter", ["megatron", "swift"])
def test_precision_is_tested_on_demand(tmp_path: Path, script: str, converter: str) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    environment = {"TEST_CONVERT_PRECISION": "1", "CONVERTER": converter}
    ran = run_script(tmp_path / "run" / script, env=environment)
    assert ran.calls[0].command == converter
    assert export_flag(ran, "--test_convert_precision") == "true"
    assert export_flag(ran, "--test_convert_dtype") == "float32"


def test_a_converted_model_answers_on_demand_in_one_process(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    environment = {"SMOKE": "1", "SMOKE_PROMPT": "it's 2 + 2?"}
    ran = run_script(tmp_path / "run" / "convert_mcore_to_hf.sh", env=environment)
    assert ran.status == 0, ran.output
    _, infer = ran.calls
    assert (infer.command, infer.argv[:3]) == ("swift", ["infer", "--model", "hf/checkpoint-9"])
    assert infer.input == "it's 2 + 2?\nexit\n"
    assert not {"NPROC_PER_NODE", "NNODES"} & infer.env.keys()


def test_settings_of_generation_come_along(tmp_path: Path) -> None:
    """ms-swift leaves generation_config.json behind."""
    model = tmp_path / "my model"
    model.mkdir()
    (model / "generation_config.json").write_text("{}")
    site = Site(model_path=str(model), dataset=("a.jsonl",))
    write_run_folder(make_run(ep=8, site=site), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    assert run_script(tmp_path / "run" / "convert_mcore_to_hf.sh").status == 0
    assert (tmp_path / "run" / "hf" / "checkpoint-9" / "generation_config.json").exists()


@pytest.mark.parametrize(
    ("release", "mtp_num_layers", "carried"),
    [("ms-swift-4.6", 0, True), ("ms-swift-4.6", 1, False), ("ms-swift-3.12", 0, False)],
)
def test_layers_for_multi_token_prediction_that_were_not_trained_are_carried_over(
    tmp_path: Path, release: str, mtp_num_layers: int, carried: bool
) -> None:
    """Where the release can: since 4.5."""
    run = make_run("GLM-4.5-Air", stack=release, ep=8, mtp_num_layers=mtp_num_layers)
    write_run_folder(run, tmp_path / "run")
    script = (tmp_path / "run" / "convert_mcore_to_hf.sh").read_text()
    assert ("--save_missing_weights true" in script) is carried
    assert carried <= ("swift export cannot convert this one" in script)


def test_one_node_of_a_job_converts_alone_when_it_is_told_so(tmp_path: Path) -> None:
    """NNODES=1 wins over what the job's launcher says, in conversions only."""
    write_run_folder(make_run(ep=8), tmp_path / "run")
    environment = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "NNODES": "1"}
    ran = run_script(tmp_path / "run" / "convert_hf_to_mcore.sh", env=environment)
    assert ran.status == 0, ran.output


def with_free_disk(folder: Path, kibibytes: str) -> None:
    """Put a df beside the stand-ins that finds so much free."""
    df = stand_ins(folder / "stand-ins") / "df"
    rows = f"Filesystem 1024-blocks Used Available Capacity Mounted on\nfs 9 9 {kibibytes} 9% /mnt"
    df.write_text(f"#!/bin/sh\necho '{rows}'\n")
    df.chmod(0o755)


ROOM = 57 * 2**20  # in KiB: Qwen3-30B-A3B has 56.9 GiB


@pytest.mark.parametrize("script", ["convert_hf_to_mcore.sh", "convert_mcore_to_hf.sh"])
@pytest.mark.parametrize(
    ("free", "preflight", "status"),
    [
        (str(ROOM), "1", 0),
        (str(ROOM - 1), "1", 68),
        (str(ROOM - 1), "report", 0),
        (str(ROOM - 1), "0", 0),
        ("-", "1", 0),  # of a file system that does not say it
    ],
)
def test_a_conversion_starts_only_where_its_result_has_room(
    tmp_path: Path, script: str, free: str, preflight: str, status: int
) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    with_free_disk(tmp_path, free)
    ran = run_script(tmp_path / "run" / script, env={"PREFLIGHT": preflight})
    assert (ran.status, len(ran.calls)) == (status, 0 if status else 1), ran.output
    lacks = "has 56 GiB free, and this writes 57: make room" in ran.output
    assert lacks is (free == str(ROOM - 1) and preflight != "0")


def test_an_adapter_alone_needs_little_room(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8, tuner_type=TunerType.LORA), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    with_free_disk(tmp_path, str(2 * 2**20))
    environment = {"ADAPTER": "1", "PREFLIGHT": "1"}
    ran = run_script(tmp_path / "run" / "convert_mcore_to_hf.sh", env=environment)
    assert ran.status == 0, ran.output
    assert run_script(tmp_path / "run" / "convert_mcore_to_hf.sh", env={"PREFLIGHT": "1"}).status


def test_code_of_a_model_comes_along(tmp_path: Path) -> None:
    """ms-swift saves the part that config.json came from, and leaves the rest behind."""
    model = tmp_path / "my model"
    model.mkdir()
    (model / "modeling_mine.py").write_text("mine")
    (model / "config.json").write_text("not this one")
    site = Site(model_path=str(model), dataset=("a.jsonl",))
    write_run_folder(make_run(ep=8, site=site), tmp_path / "run")
    checkpoint(tmp_path / "run", 9)
    assert run_script(tmp_path / "run" / "convert_mcore_to_hf.sh").status == 0
    written = tmp_path / "run" / "hf" / "checkpoint-9"
    assert (written / "modeling_mine.py").read_text() == "mine"
    assert (written / "config.json").read_text() == ""  # ms-swift's
