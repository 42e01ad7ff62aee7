"""From one line of a user to scripts that start: `plan --output-dir`, and what follows."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from console import EXAMPLE, plan
from dlc_server import dlc_service
from recorder import LAUNCHER, run_script, stand_ins
from runs import make_run

from launch.run_folder import render_again, write_run_folder
from planner.model_files import MODELS_FOLDER
from planner.run import read_run
from planner.site import Site
from planner.workload import Load, TunerType

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent

SITE = """\
model_path: models/Qwen3-30B-A3B
dataset: [train.jsonl, "train.jsonl#100", AI-ModelScope/alpaca-gpt4-data-en]
workspace: /mnt/shared/runs
image: registry.example/team/ms-swift:4.6
"""
FILES = {
    "run.json",
    "README.md",
    "train.sh",
    "node_env.sh",
    "convert_mcore_to_hf.sh",
    "job.json",
    "on_host.sh",
    "preflight",
    "preflight.json",
}
NODE_1 = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-0"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user, with a model, data and a site file."""
    (tmp_path / "models" / "Qwen3-30B-A3B").mkdir(parents=True)
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "site.yaml").write_text(SITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


GIVEN = ("--model-path", "models/Qwen3-30B-A3B", "--dataset", "train.jsonl")


def contents(folder: Path) -> dict[Path, bytes]:
    """Return what the files of a folder hold."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("load", ["mcore", "direct"])
@pytest.mark.parametrize("tuner", ["full", "lora"])
@pytest.mark.parametrize("where", [GIVEN, ("--site", "site.yaml")], ids=["flags", "site"])
def test_a_run_folder_holds_what_was_answered(
    folder: Path, load: str, tuner: str, where: tuple[str, ...]
) -> None:
    words = (*EXAMPLE, "--tuner-type", tuner, "--load", load, *where)
    ran = plan(*words, "--output-dir", "runs/first", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert [path.name for path in folder.joinpath("runs").iterdir()] == ["first"]
    run_folder = folder / "runs" / "first"
    names = {path.name for path in run_folder.iterdir()}
    assert names == FILES | {"train.yaml", "convert_hf_to_mcore.sh"}
    assert json.loads((run_folder / "run.json").read_text())["plan"] == ran.answer["plans"][0]
    run = read_run(run_folder)
    assert run.load == load and run.plan.args["tuner_type"] == TunerType(tuner)
    before = contents(run_folder)
    render_again(run_folder)
    assert contents(run_folder) == before


def test_relative_paths_are_right_when_the_scripts_run_elsewhere(folder: Path) -> None:
    assert plan(*EXAMPLE, "--site", "site.yaml", "--output-dir", "runs/first").status == 0
    moved = folder / "elsewhere"
    moved.mkdir()
    shutil.move(folder / "runs" / "first", moved / "run")
    ran = run_script(moved / "run" / "train.sh", env={**NODE_1, "DRY_RUN": "1"})
    assert ran.status == 0, ran.output
    args = yaml.safe_load((moved / "run" / "train.yaml").read_text())
    assert args["model"] == str(folder / "models" / "Qwen3-30B-A3B")
    data = str(folder / "train.jsonl")
    assert args["dataset"] == [data, f"{data}#100", "AI-ModelScope/alpaca-gpt4-data-en"]
    convert = run_script(moved / "run" / "convert_hf_to_mcore.sh", env={"DRY_RUN": "1"})
    assert convert.status == 0, convert.output
    assert f"--model {folder}/models/Qwen3-30B-A3B" in convert.output


def test_what_comes_next_is_said_and_true(folder: Path) -> None:
    ran = plan(*EXAMPLE, *GIVEN, "--output-dir", "runs/my first")
    next_steps = ran.out[ran.out.index("\nNext ") :]
    assert "bash 'runs/my first'/train.sh" in next_steps
    assert next_steps.index("convert_hf_to_mcore.sh") < next_steps.index("train.sh")
    second = second_to_try(ran.out)
    assert f"to try plan {second} too: the same with --pick {second} and another" in next_steps
    number = len(contents(folder / "runs" / "my first"))
    assert f"{number} files written to 'runs/my first'" in next_steps
    direct = plan(*EXAMPLE, *GIVEN, "--output-dir", "runs/direct", "--load", "direct")
    assert "convert_hf_to_mcore" not in direct.out


def second_to_try(text: str) -> str:
    """The number of the plan that is tied with the first, as the table names it."""
    found = re.search(r"try 1 and (\d+)", " ".join(text.split()))
    assert found is not None
    return found[1]


def test_without_a_folder_the_next_command_is_complete(folder: Path) -> None:
    """Words that scripts need are added to those that were given."""
    (folder / "my model").mkdir()
    config = (MODELS_FOLDER / "Qwen3-30B-A3B.json").read_text()
    (folder / "my model" / "config.json").write_text(config)
    ran = plan("--gpus", "16", "--model", "my model")
    last = ran.out.partition("\nNext ")[2]
    command = "plan --gpus 16 --model 'my model' --model-path MODEL --dataset DATA --output-dir"
    picked = f"{command} runs/OTHER --pick {second_to_try(ran.out)}"
    assert " ".join(last.split()) == f"{command} runs/NAME {picked}"


def test_a_second_run_never_writes_over_the_first(folder: Path) -> None:
    words = (*EXAMPLE, *GIVEN, "--output-dir", "run")
    assert plan(*words).status == 0
    before = contents(folder / "run")
    ran = plan(*words, "--tuner-type", "lora")
    assert (ran.status, ran.out) == (2, "") and "run exists already" in ran.err
    assert contents(folder / "run") == before


# -- make train-moe --------------------------------------------------------------------------------


def make(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `make train-moe` with stand-ins for ms-swift; it installs nothing."""
    dropped = {*LAUNCHER, "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    clean = {name: value for name, value in os.environ.items() if name not in dropped}
    search = os.pathsep.join([str(stand_ins(folder / "stand-ins")), "/usr/bin", "/bin"])
    installed = [f"--old-file={BIN.parent / name}" for name in ("core", "dlc")]
    return subprocess.run(
        ["make", *installed, f"VENV={BIN.parent}", "train-moe", *words],
        cwd=ROOT,
        env={**clean, "PATH": search, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_plans_shows_and_in_a_dry_run_starts_nothing(folder: Path) -> None:
    words = (
        *("NNODES=2", f"RUN={folder}/run", f"MODEL_PATH={folder}/models/Qwen3-30B-A3B"),
        *(f"DATASET={folder}/train.jsonl", "DRY_RUN=1"),
    )
    ran = make(folder, *words)
    assert ran.returncode == 0, ran.stderr
    assert "16 = tp" in ran.stdout
    assert ran.stdout.splitlines()[-1] == (
        "NNODES=2 NODE_RANK=0 MASTER_ADDR=ADDRESS_OF_NODE_0 MASTER_PORT=29500 NPROC_PER_NODE=8 "
        "megatron sft train.yaml"
    )
    again = make(folder, "NNODES=2", f"RUN={folder}/run", **NODE_1, DRY_RUN="1")
    assert again.returncode == 0, again.stderr
    assert "16 = tp" not in again.stdout  # the run is taken as it is
    assert "NODE_RANK=1 MASTER_ADDR=node-0" in again.stdout.splitlines()[-1]
    other = make(folder, *words[:2], "DATASET=other.jsonl", "DRY_RUN=1")
    assert other.returncode != 0
    assert f"run was planned with DATASET={folder}/train.jsonl, not other" in other.stderr
    started = make(folder, "NNODES=2", f"RUN={folder}/run", **NODE_1)
    assert started.returncode != 0
    assert started.stderr.splitlines()[0].startswith(
        "error: this machine has 0 GPUs, the plan wants 8 on each of 2 nodes: H100"
    )
    assert not (folder / "stand-ins" / "log").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), None),
        (("NNODES=2", "GPUS=16", "LOAD=direct", "MODEL=Qwen3-30B-A3B"), None),
        (("NNODES=4",), "NNODES=2, not 4"),
        (("GPUS=8",), "GPUS=16, not 8"),
        (("LOAD=mcore",), "LOAD=direct, not mcore"),
        (("MODEL=DeepSeek-V3",), "MODEL=Qwen3-30B-A3B, not DeepSeek-V3"),
        (("SITE=other.yaml",), "other.yaml cannot be read"),
    ],
)
def test_make_takes_a_run_that_is_there_only_for_what_is_given(
    folder: Path, words: tuple[str, ...], said: str | None
) -> None:
    """Its own defaults are nothing that a user gave."""
    run = make_run(ep=8, load=Load.DIRECT, site=Site(model_path="/m", dataset=("/d",)))
    write_run_folder(run, folder / "run")
    ran = make(folder, f"RUN={folder}/run", "BACKEND=hosts", "HOSTS=a,b", "DRY_RUN=1", *words)
    if said is None:
        assert ran.returncode == 0, ran.stderr
        assert "ssh " in ran.stdout
    else:
        assert ran.returncode != 0
        assert said in ran.stderr and "ssh " not in ran.stdout


def test_nodes_that_make_starts_at_once_share_one_run(folder: Path) -> None:
    words = (
        *("NNODES=2", f"RUN={folder}/run", f"MODEL_PATH={folder}/models/Qwen3-30B-A3B"),
        *(f"DATASET={folder}/train.jsonl", "DRY_RUN=1", "LOAD=direct"),
    )
    with ThreadPoolExecutor() as pool:
        nodes = [pool.submit(make, folder, *words, f"NODE_RANK={rank}") for rank in (0, 1)]
    for rank, node in enumerate(nodes):
        ran = node.result()
        assert ran.returncode == 0, ran.stderr
        assert f"NODE_RANK={rank} " in ran.stdout.splitlines()[-1]
    assert read_run(folder / "run").load == "direct"


def test_make_asks_for_the_model_and_the_data_in_one_line(folder: Path) -> None:
    ran = make(folder, "NNODES=2", f"RUN={folder}/run")
    assert ran.stderr.splitlines()[0].startswith("error: scripts need --model-path and --dataset")
    assert not (folder / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "sent"), [("hosts", "ssh -o BatchMode=yes"), ("dlc", '"JobType": "PyTorchJob"')]
)
def test_each_backend_is_one_block_of_the_readme_that_runs_as_it_stands(
    backend: str, sent: str, folder: Path
) -> None:
    """In a dry run, and with the shared storage elsewhere."""
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```\n")[1::2]
    (block,) = (each for each in blocks if f"make train-moe BACKEND={backend} " in each)
    script = block.replace("/mnt/data", str(folder)).replace("site.yaml", f"{folder}/site.yaml")
    installed = " ".join(f"--old-file={BIN.parent / name}" for name in ("core", "dlc"))
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    ran = subprocess.run(
        ["bash", "-ec", f'make() {{ command make {installed} VENV={BIN.parent} "$@"; }}\n{script}'],
        cwd=ROOT,
        env={**kept, "HOME": str(folder), "DRY_RUN": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert sent in ran.stdout and f"{folder}/plans/first" in ran.stdout
    assert read_run(folder / "plans" / "first").machines.num_nodes == 2


DLC_SITE = """\
run_folder: /mnt/data/first
workspace: /mnt/data
image: registry.example/ms-swift:4.6
mounts: [{{mount_path: /mnt/data, uri: "oss://bucket/data"}}]
dlc: {{region: cn-x, endpoint: "{endpoint}", workspace_id: "7", ecs_spec: ml.big}}
"""


def test_make_plans_and_submits_to_pai_dlc(folder: Path) -> None:
    """One command from the model's name to a job; asked again, it says that the job is there."""
    credentials = {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "id",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret",
        "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
    }
    with dlc_service() as service:
        (folder / "site.yaml").write_text(DLC_SITE.format(endpoint=service.endpoint))
        words = (
            *("BACKEND=dlc", "NNODES=2", f"RUN={folder}/run", f"SITE={folder}/site.yaml"),
            *("MODEL_PATH=/mnt/data/Qwen3-30B-A3B", "DATASET=/mnt/data/a.jsonl", "LOAD=direct"),
        )
        shown = make(folder, *words, "DRY_RUN=1", **credentials)
        assert shown.returncode == 0, shown.stderr
        assert service.jobs == {}
        ran = make(folder, *words, "YES=1", **credentials)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("dlc://dlc1\n")
        again = make(folder, *words, "YES=1", **credentials)
        assert "its job dlc://dlc1 is running" in again.stderr
    (job,) = service.jobs.values()
    assert job["JobSpecs"][0]["PodCount"] == 2
    assert job["UserCommand"] == "bash /mnt/data/first/train.sh"
