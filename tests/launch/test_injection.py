"""What users name cannot change what is run: the commands of PAI-DLC and of plain hosts."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import PATHS
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import FULL_SITE, make_run

from launch.dlc import job
from launch.dlc_backend import DlcBackend
from launch.dlc_schema import check_job
from launch.hosts import HostsBackend
from launch.run_folder import render
from planner.errors import UsageError
from planner.site import Hosts

# Names of folders: no slash, not too long for a file system.
NAMES = PATHS.map(lambda text: f"x{text}".replace("/", "|")[:40])
ECHO = 'printf "%s\\0" "$0" "$@" "$NODE_RANK"\n'


def folder_of(root: Path, name: str) -> Path | None:
    """Return a new folder of this name; None where the file system cannot have it."""
    try:
        folder = root / name
        folder.mkdir()
    except (OSError, UnicodeEncodeError):
        return None
    return folder


@settings(max_examples=60)
@given(name=NAMES)
def test_the_command_of_a_job_runs_train_sh_of_its_folder_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.mktemp("job")
    folder = folder_of(root, name)
    if folder is None:
        return
    (folder / "train.sh").write_text(ECHO)
    command = job(make_run(ep=8), str(folder))["UserCommand"]
    ran = subprocess.run(["sh", "-c", command], cwd=root, capture_output=True, check=True)
    assert ran.stdout == f"{folder}/train.sh\0\0".encode("utf-8", "surrogateescape")
    assert [path.name for path in root.iterdir()] == [folder.name]


@settings(max_examples=60)
@given(name=NAMES)
def test_the_command_of_a_host_runs_on_host_sh_of_its_folder_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.mktemp("host")
    folder = folder_of(root, name)
    if folder is None:
        return
    (folder / "on_host.sh").write_text(ECHO)
    backend = HostsBackend(
        hosts=Hosts(addresses=("localhost",)), run_folder=str(folder), here=folder
    )
    command = backend._command("start", "a1b2c3d4", 0)
    ran = subprocess.run(["sh", "-c", command], cwd=root, capture_output=True, check=True)
    words = [f"{folder}/on_host.sh", "start", "a1b2c3d4", "0", "0", ""]
    assert ran.stdout == "\0".join(words).encode("utf-8", "surrogateescape")
    assert [path.name for path in root.iterdir()] == [folder.name]


@settings(max_examples=60)
@given(
    model=PATHS,
    env=st.dictionaries(st.sampled_from(["A", "B"]), PATHS),
    tag=PATHS,
)
def test_texts_of_a_site_stay_texts_of_the_request(
    tmp_path_factory: pytest.TempPathFactory, model: str, env: dict[str, str], tag: str
) -> None:
    """What is not of PAI-DLC's form is refused; what is, arrives letter for letter."""
    folder = tmp_path_factory.mktemp("request")
    dlc = replace(FULL_SITE.dlc, tags={"team": tag})
    site = replace(FULL_SITE, model_path=f"/{model}", env=env, dlc=dlc)
    text = render(make_run(ep=8, site=site, name=model), folder)["job.json"]
    (folder / "job.json").write_text(text)
    try:
        sent = json.loads(DlcBackend(dlc=dlc, job_file=folder / "job.json").shown())
    except UsageError:
        assert "\0" in text
        return
    assert sent.get("Envs", {}) == env
    assert sent["Settings"]["Tags"]["team"] == tag
    assert check_job(folder / "job.json", sent) == sent
