"""A run folder that is there already is refused where something else is asked for."""

from pathlib import Path
from typing import Any

import pytest
from runs import FULL_SITE, make_run

from launch.expected import Expected, read_expected_run
from launch.run_folder import write_run_folder
from planner.errors import UsageError
from planner.site import Site
from planner.workload import Load

SITE_FILE = """\
model_path: /mnt/data/models/mine
dataset: [/mnt/data/a.jsonl, "AI-ModelScope/alpaca-gpt4-data-en#500"]
workspace: /mnt/data/runs/mine
run_folder: /mnt/data/plans/mine
image: registry.example/team/ms-swift:4.6
mounts: [{mount_path: /mnt/data, uri: "cpfs://cpfs-1.example/data"}]
env: {WANDB_MODE: offline}
dlc: {workspace_id: "1234", resource_id: quota-1, cpu: "96", memory: 1600Gi}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = make_run(ep=8, load=Load.DIRECT, site=FULL_SITE)
    write_run_folder(run, tmp_path / "run")
    (tmp_path / "site.yaml").write_text(SITE_FILE)
    return tmp_path / "run"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"gpus": 16, "nodes": 2, "load": "direct"},
        {"model": "Qwen3-30B-A3B"},
        {"model": "Qwen/Qwen3-30B-A3B"},
        {"model_path": "/mnt/data/models/mine"},
    ],
)
def test_what_the_run_was_planned_with_is_taken(folder: Path, given: dict[str, Any]) -> None:
    assert read_expected_run(folder, Expected(**given)).load is Load.DIRECT


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpus": 8}, "GPUS=16, not 8"),
        ({"nodes": 4}, "NNODES=2, not 4"),
        ({"load": "mcore"}, "LOAD=direct, not mcore"),
        ({"model": "DeepSeek-V3"}, "MODEL=Qwen3-30B-A3B, not DeepSeek-V3"),
        ({"model_path": "/mnt/other"}, "MODEL_PATH=/mnt/data/models/mine, not /mnt/other"),
        ({"dataset": "b.jsonl"}, "alpaca-gpt4-data-en#500, not b.jsonl"),
    ],
)
def test_what_it_was_not_planned_with_is_refused_by_name(
    folder: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        read_expected_run(folder, Expected(**given))
    assert words in refused.value.message
    assert refused.value.fix.endswith(" out")


def test_the_site_file_that_the_run_has_is_taken(folder: Path) -> None:
    site = folder.parent / "site.yaml"
    read_expected_run(folder, Expected(site=site))
    site.write_text(SITE_FILE.replace("quota-1", "quota-2"))
    with pytest.raises(UsageError) as refused:
        read_expected_run(folder, Expected(site=site))
    assert f"moe-launch render {folder} --site {site}" in refused.value.fix


def test_model_and_data_of_flags_win_over_a_site_file(tmp_path: Path) -> None:
    """As they did when the run was planned."""
    site = tmp_path / "site.yaml"
    site.write_text("model_path: /a\nimage: i\n")
    run = make_run(ep=8, site=Site(model_path="/b", dataset=("/d",), image="i"))
    write_run_folder(run, tmp_path / "run")
    read_expected_run(tmp_path / "run", Expected(site=site, model_path="/b"))
    with pytest.raises(UsageError, match="another site file"):
        read_expected_run(tmp_path / "run", Expected(site=site))


def test_another_name_of_the_same_model_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    from planner.model_files import known_models

    config = next(each.path for each in known_models() if each.name == "Qwen3-30B-A3B")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(Path(config).read_text())
    read_expected_run(folder, Expected(model=str(tmp_path / "mine")))
