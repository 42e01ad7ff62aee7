"""Scripts, run for real with stand-ins for ms-swift: what they start, and when they refuse."""

import os
from pathlib import Path

import pytest
from hostile import PATHS, SITES
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder import Ran, run_script, words_after_yaml
from runs import make_run

from launch.arguments import train_args
from launch.run_folder import write_run_folder
from planner.dialects import argv, load_dialect, translate
from planner.run import Run
from planner.site import Site
from planner.workload import Load

TWO_NODES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-0", "NPROC_PER_NODE": "8"}


def folder_of(run: Run, tmp_path: Path) -> Path:
    """Return a new run folder, with weights that look converted."""
    folder = tmp_path / "run"
    write_run_folder(run, folder)
    tracker = folder / "mcore" / "latest_checkpointed_iteration.txt"
    tracker.parent.mkdir()
    tracker.write_text("1")
    return folder


def trained_with(ran: Ran, folder: Path) -> list[str]:
    """Return the flags that `megatron sft` got, those of its file included."""
    assert ran.status == 0, ran.output
    (call,) = ran.calls
    assert (call.command, call.argv[0]) == ("megatron", "sft")
    words = call.argv[1:]
    return words_after_yaml(words, folder) if words[0].endswith(".yaml") else words


def same_flags(got: list[str], expected: list[str]) -> bool:
    """Whether word lists are the same to ms-swift, which takes True for true."""
    truth = {"True": "true", "False": "false"}
    return [truth.get(word, word) for word in got] == expected


@pytest.mark.parametrize("stack", ["ms-swift-4.6", "ms-swift-3.12"])
@settings(max_examples=40)
@given(site=SITES, name=PATHS, extra=st.lists(PATHS, max_size=2))
def test_no_text_of_the_user_changes_what_train_sh_does(
    tmp_path_factory: pytest.TempPathFactory, stack: str, site: Site, name: str, extra: list[str]
) -> None:
    """The words that reach ms-swift are exactly the plan's, whatever names and paths hold."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    run = make_run(stack=stack, pp=2, ep=8, site=site, name=name)
    folder = folder_of(run, tmp_path)
    ran = run_script(folder / "train.sh", *extra, env=TWO_NODES)
    expected = argv(translate(train_args(run), load_dialect(run.stack.dialect)))
    assert same_flags(trained_with(ran, folder), [*expected, *extra])
    env = ran.calls[0].env
    assert {key: env[key] for key in site.env} == dict(site.env)
    assert not list(tmp_path.rglob("pwned"))


@settings(max_examples=40)
@given(site=SITES, name=PATHS)
def test_no_text_of_the_user_changes_what_conversions_do(
    tmp_path_factory: pytest.TempPathFactory, site: Site, name: str
) -> None:
    tmp_path = tmp_path_factory.mktemp("hostile")
    write_run_folder(make_run(pp=2, ep=8, site=site, name=name), tmp_path / "run")
    ran = run_script(tmp_path / "run" / "convert_hf_to_mcore.sh")
    assert ran.status == 0, ran.output
    (call,) = ran.calls
    assert call.argv[call.argv.index("--model") + 1] == site.model_path
    assert (tmp_path / "run" / "mcore").is_dir()
    assert not list(tmp_path.rglob("pwned"))


# -- the five variables ----------------------------------------------------------------------------

CONVENTIONS = {
    "by hand": (TWO_NODES, ("2", "1", "node-0", "29500", "8")),
    "by hand, with a port": (
        {**TWO_NODES, "MASTER_PORT": "1234"},
        ("2", "1", "node-0", "1234", "8"),
    ),
    "processes left out": (
        {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "10.0.0.1"},
        ("2", "0", "10.0.0.1", "29500", "8"),
    ),
    "smaller nodes": (
        {"NNODES": "4", "NODE_RANK": "3", "MASTER_ADDR": "a", "NPROC_PER_NODE": "4"},
        ("4", "3", "a", "29500", "4"),
    ),
    "one large node": ({"NPROC_PER_NODE": "16"}, ("1", "0", "127.0.0.1", "29500", "16")),
    "PAI-DLC master": (
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "dlc-master-0", "MASTER_PORT": "23456"},
        ("2", "0", "dlc-master-0", "23456", "8"),
    ),
    "PAI-DLC worker": (
        {
            "WORLD_SIZE": "2",
            "RANK": "1",
            "MASTER_ADDR": "dlc-master-0",
            "MASTER_PORT": "23456",
            "NPROC_PER_NODE": "8",
        },
        ("2", "1", "dlc-master-0", "23456", "8"),
    ),
    "plain variables win over PAI-DLC's": (
        {**TWO_NODES, "WORLD_SIZE": "16", "RANK": "9"},
        ("2", "1", "node-0", "29500", "8"),
    ),
}
REFUSALS = {
    "one node of two": ({}, 65, "NPROC_PER_NODE=8 is 8: set NNODES=2\n"),
    "too few": ({**TWO_NODES, "NPROC_PER_NODE": "7"}, 65, "is 14: set NNODES=2 NPROC_PER_NODE=8\n"),
    "Kubeflow counts processes": (
        {"WORLD_SIZE": "16", "RANK": "1", "MASTER_ADDR": "a"},
        65,
        "WORLD_SIZE=16 x NPROC_PER_NODE=8 is 128",
    ),
    "no rank": ({"NNODES": "2", "MASTER_ADDR": "a"}, 64, "NODE_RANK is missing: 0 to 1"),
    "no rank on PAI-DLC": ({"WORLD_SIZE": "2", "MASTER_ADDR": "a"}, 64, "NODE_RANK is missing"),
    "rank too high": (
        {**TWO_NODES, "NODE_RANK": "2"},
        64,
        "must be less than NNODES=2",
    ),
    "no master": ({"NNODES": "2", "NODE_RANK": "1"}, 64, "MASTER_ADDR is missing"),
    "nodes not a number": ({**TWO_NODES, "NNODES": "two"}, 64, "NNODES=two"),
    "nodes zero": ({**TWO_NODES, "NNODES": "0"}, 64, "NNODES=0"),
    "rank negative": ({**TWO_NODES, "NODE_RANK": "-1"}, 64, "NODE_RANK=-1"),
    "rank octal": ({**TWO_NODES, "NODE_RANK": "01"}, 64, "NODE_RANK=01"),
    "port a formula": ({**TWO_NODES, "MASTER_PORT": "a[$(touch pwned)]"}, 64, "MASTER_PORT="),
    "port zero": ({**TWO_NODES, "MASTER_PORT": "0"}, 64, "MASTER_PORT=0 must be"),
    "port too high": ({**TWO_NODES, "MASTER_PORT": "65536"}, 64, "number from 1 to 65535"),
    "processes huge": ({**TWO_NODES, "NPROC_PER_NODE": "9" * 30}, 64, "NPROC_PER_NODE="),
}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions_of_launchers_become_the_five_variables(
    tmp_path: Path, convention: str
) -> None:
    environment, expected = CONVENTIONS[convention]
    ran = run_script(folder_of(make_run(ep=8), tmp_path) / "train.sh", env=environment)
    assert ran.status == 0, ran.output
    env = ran.calls[0].env
    names = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NPROC_PER_NODE")
    assert tuple(env[name] for name in names) == expected


@pytest.mark.parametrize("cause", REFUSALS)
def test_a_wrong_environment_is_refused_before_anything_starts(tmp_path: Path, cause: str) -> None:
    environment, status, words = REFUSALS[cause]
    ran = run_script(folder_of(make_run(ep=8), tmp_path) / "train.sh", env=environment)
    assert (ran.status, ran.calls) == (status, [])
    assert words in ran.output
    assert len(ran.output.splitlines()) == 1
    assert not list(tmp_path.rglob("pwned"))


def test_a_plan_of_two_gpus_runs_on_two_nodes_with_one_each(tmp_path: Path) -> None:
    run = make_run(num_nodes=1, gpus_per_node=2, ep=2)
    environment = {**TWO_NODES, "NPROC_PER_NODE": "1"}
    ran = run_script(folder_of(run, tmp_path) / "train.sh", env=environment)
    assert ran.status == 0, ran.output


def test_the_environment_has_the_stacks_and_the_sites_defaults(tmp_path: Path) -> None:
    site = Site(model_path="/m", dataset=("/d",), env={"SITE_A": "1", "SITE_B": "2"})
    folder = folder_of(make_run(ep=8, site=site), tmp_path)
    ran = run_script(folder / "train.sh", env={**TWO_NODES, "SITE_B": "mine"})
    env = ran.calls[0].env
    assert env["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert env["MODELSCOPE_CACHE"] == str(folder / "cache")
    assert (env["SITE_A"], env["SITE_B"]) == ("1", "mine")
    assert not [name for name in env.keys() - os.environ.keys() if name.startswith("NCCL_")]


# -- train.sh --------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_command_and_starts_nothing(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    environment = {**TWO_NODES, "DRY_RUN": "1"}
    ran = run_script(
        tmp_path / "run" / "train.sh", "--seed", "a b", env=environment, commands=False
    )
    assert (ran.status, ran.calls) == (0, [])
    assert ran.output == (
        "NNODES=2 NODE_RANK=1 MASTER_ADDR=node-0 MASTER_PORT=29500 NPROC_PER_NODE=8"
        " megatron sft train.yaml --seed a\\ b\n"
    )


@pytest.mark.parametrize("value", ["0", ""])
def test_no_dry_run_is_not_a_dry_run(tmp_path: Path, value: str) -> None:
    folder = folder_of(make_run(ep=8), tmp_path)
    assert run_script(folder / "train.sh", env={**TWO_NODES, "DRY_RUN": value}).calls


def test_training_starts_only_with_converted_weights(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    ran = run_script(tmp_path / "run" / "train.sh", env=TWO_NODES)
    assert (ran.status, ran.calls) == (66, [])
    assert "run convert_hf_to_mcore.sh first" in ran.output


def test_weights_that_are_read_directly_need_no_conversion(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8, load=Load.DIRECT), tmp_path / "run")
    script = (tmp_path / "run" / "convert_hf_to_mcore.sh").read_text()
    assert "train.sh of this one reads them as they are" in script
    ran = run_script(tmp_path / "run" / "train.sh", env=TWO_NODES)
    assert "--mcore_model" not in trained_with(ran, tmp_path / "run")


@pytest.mark.parametrize("script", ["train.sh", "convert_hf_to_mcore.sh"])
def test_a_machine_without_ms_swift_is_told_so(tmp_path: Path, script: str) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    environment = TWO_NODES if script == "train.sh" else {}
    ran = run_script(tmp_path / "run" / script, env=environment, commands=False)
    assert ran.status == 69
    assert "megatron is not installed here" in ran.output


def test_the_status_of_ms_swift_is_the_scripts(tmp_path: Path) -> None:
    folder = folder_of(make_run(ep=8), tmp_path)
    ran = run_script(folder / "train.sh", env={**TWO_NODES, "STAND_IN_STATUS": "7"})
    assert ran.status == 7


def test_a_run_folder_can_be_moved(tmp_path: Path) -> None:
    """Scripts work from their own folder, wherever they are started and whatever CDPATH says."""
    folder = folder_of(make_run(ep=8), tmp_path).rename(tmp_path / "else where")
    ran = run_script(folder / "train.sh", env={**TWO_NODES, "CDPATH": "/"})
    assert ran.calls[0].cwd == str(folder)
