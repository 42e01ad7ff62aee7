"""The console commands, as processes: what they print, start and end with."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from recorder import LAUNCHER, stand_ins
from runs import make_run

from launch.run_folder import write_run_folder
from planner.site import Site
from planner.workload import Load

ROOT = Path(__file__).parent.parent.parent


def run_command(
    package: str, *arguments: object, folder: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `moe-launch` ("launch") or `moe-convert` ("convert") with stand-ins for ms-swift."""
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    search = os.pathsep.join([str(stand_ins(folder / "stand-ins")), "/usr/bin", "/bin"])
    return subprocess.run(
        [sys.executable, "-c", f"from {package}.cli import main; main()", *map(str, arguments)],
        env={**clean, "PATH": search, "PREFLIGHT": "0", **(env or {})},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def calls(folder: Path) -> list[list[str]]:
    """Return what the stand-ins were called with."""
    log = folder / "stand-ins" / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [[name, *record["argv"]] for name, record in map(json.loads, lines)]


def with_gpus(folder: Path, number: int) -> None:
    """Put an nvidia-smi beside the stand-ins that lists so many GPUs."""
    smi = stand_ins(folder / "stand-ins") / "nvidia-smi"
    lines = "\n".join(f"GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i})" for i in range(number))
    smi.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    smi.chmod(0o755)


ONE_NODE: dict[str, Any] = {"ep": 8, "num_nodes": 1, "load": Load.DIRECT}


def test_train_runs_this_nodes_part(tmp_path: Path) -> None:
    write_run_folder(make_run(**ONE_NODE), tmp_path / "run")
    with_gpus(tmp_path, 8)
    ran = run_command("launch", "train", "run", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("Qwen3-30B-A3B (full) on 1 node of 8 H100-SXM-80GB, from run\n")
    assert "NPROC_PER_NODE=8 megatron sft train.yaml" in ran.stdout
    assert calls(tmp_path) == [["megatron", "sft", "train.yaml"]]


@pytest.mark.parametrize("gpus", [None, 4])
def test_a_machine_without_the_plans_gpus_is_told_so_in_one_line(
    tmp_path: Path, gpus: int | None
) -> None:
    write_run_folder(make_run(**ONE_NODE), tmp_path / "run")
    if gpus is not None:
        with_gpus(tmp_path, gpus)
    ran = run_command("launch", "train", "run", folder=tmp_path)
    assert (ran.returncode, calls(tmp_path)) == (4, [])
    assert len(ran.stderr.splitlines()) == 1
    assert f"this machine has {gpus or 0} GPUs, the plan wants 8 on each of 1 nodes" in ran.stderr


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_dry_run_needs_no_gpus_and_starts_nothing(tmp_path: Path, how: str) -> None:
    write_run_folder(make_run(**ONE_NODE), tmp_path / "run")
    flags = ["--dry-run"] if how == "flag" else []
    env = {"DRY_RUN": "1"} if how == "variable" else {}
    ran = run_command("launch", "train", "run", *flags, folder=tmp_path, env=env)
    assert (ran.returncode, calls(tmp_path)) == (0, [])
    assert ran.stdout.splitlines()[-1].endswith("megatron sft train.yaml")


SAME = [("MODEL_PATH", "/mnt/m"), ("DATASET", "data.jsonl"), ("DATASET", "")]
OTHER = [("MODEL_PATH", "/mnt/other"), ("DATASET", "other data.jsonl")]


@pytest.mark.parametrize(("variable", "value"), [*SAME, *OTHER])
def test_a_run_of_another_model_or_other_data_is_not_taken_for_what_is_given(
    tmp_path: Path, variable: str, value: str
) -> None:
    """Relative paths count from here, as in `plan`; what is not given can be anything."""
    (tmp_path / "data.jsonl").touch()
    site = Site(model_path="/mnt/m", dataset=(str(tmp_path / "data.jsonl"),))
    write_run_folder(make_run(**ONE_NODE, site=site), tmp_path / "run")
    ran = run_command("launch", "train", "run", "--dry-run", folder=tmp_path, env={variable: value})
    if (variable, value) in SAME:
        assert ran.returncode == 0, ran.stderr
        return
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert f"run was planned with {variable}=" in ran.stderr
    assert f"not {value}; give another folder (RUN= of make), or leave {variable}" in ran.stderr


def test_a_run_of_another_model_is_not_submitted(tmp_path: Path) -> None:
    """`make train-moe BACKEND=hosts RUN=` of a folder that is there already plans nothing."""
    site = Site(model_path="/mnt/m", dataset=("d",))
    write_run_folder(make_run(**ONE_NODE, site=site), tmp_path / "run")
    words = ("launch", "submit", "run", "--hosts", "a", "--dry-run")
    ran = run_command(*words, folder=tmp_path, env={"MODEL_PATH": "/mnt/m"})
    assert ran.returncode == 0, ran.stderr
    ran = run_command(*words, folder=tmp_path, env={"MODEL_PATH": "/mnt/other"})
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "run was planned with MODEL_PATH=/mnt/m, not /mnt/other" in ran.stderr


def test_nodes_smaller_than_planned_need_fewer_gpus_each(tmp_path: Path) -> None:
    write_run_folder(make_run(**ONE_NODE), tmp_path / "run")
    with_gpus(tmp_path, 4)
    environment = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "a", "NPROC_PER_NODE": "4"}
    assert run_command("launch", "train", "run", folder=tmp_path, env=environment).returncode == 0


def test_render_names_the_files_that_it_wrote(tmp_path: Path) -> None:
    files = write_run_folder(make_run(ep=8), tmp_path / "run")
    ran = run_command("launch", "render", "run", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert {*ran.stdout.split(), "run/run.json"} == {f"run/{name}" for name in files}


@pytest.mark.parametrize("num_nodes", [2, 512])
def test_rendering_takes_less_than_a_second_for_any_number_of_nodes(
    tmp_path: Path, num_nodes: int
) -> None:
    """Of a processor, imports included: other tests may keep it waiting."""
    write_run_folder(make_run(ep=8, num_nodes=num_nodes), tmp_path / "run")
    run_command("launch", "render", "run", folder=tmp_path)  # the modules are compiled then
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run_command("launch", "render", "run", folder=tmp_path).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_conversions_run_the_scripts_of_the_run(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    ran = run_command("convert", "hf-to-mcore", "run", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert calls(tmp_path)[0][:2] == ["megatron", "export"]


def test_a_folder_that_looks_like_an_option_is_a_folder(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "-run")
    ran = run_command("convert", "hf-to-mcore", "--", "-run", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert calls(tmp_path)[0][:2] == ["megatron", "export"]


def test_without_bash_a_conversion_says_so(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    nowhere = {"PATH": str(tmp_path)}
    ran = run_command("convert", "hf-to-mcore", "run", folder=tmp_path, env=nowhere)
    assert (ran.returncode, ran.stdout) == (4, "")
    assert "bash, which convert_hf_to_mcore.sh is for, cannot be started" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_conversion_that_the_run_has_not_is_refused(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    (tmp_path / "run" / "convert_hf_to_mcore.sh").unlink()
    ran = run_command("convert", "hf-to-mcore", "run", folder=tmp_path)
    assert ran.returncode == 2
    assert "moe-launch render run writes missing scripts" in ran.stderr


def test_the_ways_of_a_conversion_are_said(tmp_path: Path) -> None:
    write_run_folder(make_run("DeepSeek-V3", num_nodes=32, pp=16, ep=16), tmp_path / "run")
    ran = run_command("convert", "plan", "run", folder=tmp_path)
    assert re.search("megatron export +4 x 8 ", ran.stdout)


@pytest.mark.parametrize(
    "command", [["launch", "train"], ["launch", "render"], ["convert", "plan"]]
)
def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path, command: list[str]) -> None:
    ran = run_command(command[0], command[1], "nowhere", folder=tmp_path)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert "nowhere/run.json cannot be read" in ran.stderr


# -- promises of the documents ---------------------------------------------------------------------


def test_every_exit_status_of_a_script_is_in_the_documents() -> None:
    templates = [*ROOT.glob("launch/templates/*.sh"), *ROOT.glob("convert/templates/*.sh")]
    sources = [path.read_text() for path in [*templates, *ROOT.glob("launch/*.py")]]
    used = {status for text in sources for status in re.findall(r"stop (\d+)", text)}
    documents = (ROOT / "docs" / "exit-statuses.md").read_text()
    assert used == {"64", "65", "66", "67", "68", "69"}
    assert used == set(re.findall(r"^\| (6\d) \|", documents, re.MULTILINE))


def test_make_help_describes_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (\S+)", makefile, re.MULTILINE))
    command = ["make", "--no-print-directory", "help"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in ran.stdout.splitlines()} == targets
