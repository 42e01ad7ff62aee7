"""A run folder is written whole or not at all, and can be written again from its run.json."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import FULL_SITE, Case, golden_cases, make_run

from launch.dlc import display_name, job
from launch.dlc_schema import MAX_JOB_BYTES, check_job
from launch.run_folder import render, render_again, run_json, write_run_folder
from planner.errors import UsageError
from planner.parameters import model_parameters
from planner.run import Run, read_run
from planner.site import Mount, Site, load_site, with_absolute_paths

each_case = pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case.name)

# -- run.json --------------------------------------------------------------------------------------


@each_case
def test_run_json_reads_back_as_the_same_run(case: Case) -> None:
    assert Run.from_json(json.loads(run_json(case.run)), origin="run.json") == case.run


TEXT = run_json(make_run(pp=2, ep=8, site=FULL_SITE))


@given(st.integers(0, len(TEXT) - 2))
def test_a_run_json_that_is_cut_short_is_refused(tmp_path_factory: Any, length: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "run.json").write_text(TEXT[:length])
    with pytest.raises(UsageError):
        read_run(folder)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of all values inside a JSON value."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@settings(max_examples=200)
@given(
    place=st.sampled_from(places(json.loads(TEXT))[1:]),
    value=st.none() | st.integers() | st.text() | st.lists(st.none()) | st.just({}),
)
def test_a_run_json_that_somebody_changed_is_a_run_or_refused(
    tmp_path_factory: Any, place: tuple[str | int, ...], value: Any
) -> None:
    """Never a traceback: either a run that renders, or one sentence."""
    content = json.loads(TEXT)
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    folder = tmp_path_factory.mktemp("changed")
    (folder / "run.json").write_text(json.dumps(content))
    try:
        render(read_run(folder), folder)
    except UsageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format_version": "2.0"}', "\xff", "[" * 9999]
)
def test_what_is_no_run_json_is_refused_with_a_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(UsageError) as refused:
        read_run(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert refused.value.fix


def test_a_folder_without_run_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_run(tmp_path)


def texts(folder: Path) -> dict[str, str]:
    """Return what a run folder holds, by name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


# -- writing ---------------------------------------------------------------------------------------


@each_case
def test_the_folder_holds_what_was_rendered_and_scripts_can_be_run(
    case: Case, tmp_path: Path
) -> None:
    files = write_run_folder(case.run, tmp_path / "run")
    assert texts(tmp_path / "run") == files
    for name in files:
        assert os.access(tmp_path / "run" / name, os.X_OK) == name.endswith(".sh")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_folders_above_are_made(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "runs" / "today" / "first")
    assert (tmp_path / "runs" / "today" / "first" / "train.sh").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_never_written_over(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "run"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    with pytest.raises(UsageError, match="exists already"):
        write_run_folder(make_run(ep=8), target)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("where", ["file/run", "/proc/run", "x" * 300])
def test_where_nothing_can_be_written_one_sentence_says_so(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written: "):
        write_run_folder(make_run(ep=8), tmp_path / where)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (Site(), "--model-path and --dataset"),
        (Site(model_path="/m"), "--dataset"),
        (Site(dataset=("/d",)), "--model-path"),
        (Site(model_path="-m", dataset=("/d",)), "--model-path '-m'"),
        (Site(model_path="/m", dataset=("/d", "")), "--dataset ''"),
        (Site(model_path="/m", dataset=("/d\0",)), "--dataset"),
    ],
)
def test_a_model_and_data_are_asked_for_before_anything_is_written(
    tmp_path: Path, site: Site, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        write_run_folder(make_run(ep=8, site=site), tmp_path / "run")
    assert not list(tmp_path.iterdir())


WRITER = """
import itertools, pathlib, sys
from launch.run_folder import write_run_folder
from planner.run import read_run
run = read_run(pathlib.Path(sys.argv[1]))
print("ready", flush=True)
for number in itertools.count():
    write_run_folder(run, pathlib.Path(sys.argv[2]) / str(number))
"""


def test_a_writer_that_is_killed_leaves_no_half_written_folder(tmp_path: Path) -> None:
    files = write_run_folder(make_run(pp=2, ep=8), tmp_path / "first")
    runs = tmp_path / "runs"
    draw = random.Random(0)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "first", runs],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(draw.uniform(0.2, 0.4))
        writer.send_signal(signal.SIGKILL)
    shown = [path for path in runs.iterdir() if not path.name.startswith(".")]
    assert shown
    for folder in shown:
        assert texts(folder).keys() == files.keys()
        assert all(texts(folder).values())
    assert len(list(runs.glob(".*"))) <= 1


# -- writing again ---------------------------------------------------------------------------------


@each_case
def test_rendering_again_changes_nothing(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    files = write_run_folder(case.run, folder)
    (folder / "output").mkdir()
    for name in files:
        if name != "run.json":
            (folder / name).write_text("changed")
    render_again(folder)
    assert texts(folder) == files
    assert os.access(folder / "train.sh", os.X_OK)
    assert (folder / "output").is_dir()


def test_rendering_again_takes_away_what_the_run_no_longer_has(tmp_path: Path) -> None:
    """Releases before 4.0 read no file of arguments."""
    write_run_folder(make_run(ep=8), tmp_path / "run")
    older = make_run(ep=8, stack="ms-swift-3.12")
    (tmp_path / "run" / "run.json").write_text(run_json(older))
    render_again(tmp_path / "run")
    assert not (tmp_path / "run" / "train.yaml").exists()


def test_a_run_moves_to_another_site_and_keeps_its_model_and_data(tmp_path: Path) -> None:
    write_run_folder(make_run(ep=8), tmp_path / "run")
    before = read_run(tmp_path / "run")
    (tmp_path / "site.yaml").write_text("workspace: /mnt/w\nhosts: {addresses: [a, b]}\n")
    render_again(tmp_path / "run", tmp_path / "site.yaml")
    after = read_run(tmp_path / "run")
    assert after.site.hosts.addresses == ("a", "b")
    assert (after.site.model_path, after.site.dataset) == (
        before.site.model_path,
        before.site.dataset,
    )
    assert replace(after, site=before.site) == before
    assert 'output_dir: "/mnt/w/output"' in (tmp_path / "run" / "train.yaml").read_text()


# -- the PAI-DLC job -------------------------------------------------------------------------------


@each_case
def test_the_job_has_the_wire_form_of_create_job(case: Case) -> None:
    """But for what the site does not say, which submitting asks for."""
    job = json.loads(render(case.run, Path("/runs/example"))["job.json"])
    job = {"WorkspaceId": "1", **job}
    job["JobSpecs"][0] = {"Image": "i", **job["JobSpecs"][0]}
    assert check_job(Path("job.json"), job) == job


def test_the_job_asks_for_the_plans_nodes_and_gpus() -> None:
    request = job(make_run(ep=8, site=FULL_SITE), "/mnt/data/plans/mine")
    (worker,) = request["JobSpecs"]
    assert (worker["PodCount"], worker["ResourceConfig"]["GPU"]) == (2, "8")
    assert request["UserCommand"] == "bash /mnt/data/plans/mine/train.sh"
    assert request["Settings"]["EnableRDMA"] is True


def test_an_instance_type_replaces_resources() -> None:
    site = replace(FULL_SITE, dlc=replace(FULL_SITE.dlc, ecs_spec="ml.gu8.8xlarge"))
    (worker,) = job(make_run(ep=8, site=site), "/x")["JobSpecs"]
    assert "ResourceConfig" not in worker


@given(st.text(min_size=1))
def test_the_name_of_a_job_is_one_that_pai_dlc_takes(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,256}", display_name(make_run(ep=8, name=name)))


def test_a_job_that_is_too_large_is_refused(tmp_path: Path) -> None:
    site = replace(FULL_SITE, env={"LONG": "x" * MAX_JOB_BYTES})
    with pytest.raises(UsageError, match="more than the 65536"):
        write_run_folder(make_run(ep=8, site=site), tmp_path / "run")
    assert not list(tmp_path.iterdir())


# -- the site file ---------------------------------------------------------------------------------

SITE_FILE = """\
model_path: /mnt/data/models/mine
dataset: [/mnt/data/a.jsonl, "AI-ModelScope/alpaca-gpt4-data-en#500"]
workspace: /mnt/data/runs/mine
run_folder: /mnt/data/plans/mine
image: registry.example/team/ms-swift:4.6
mounts: [{mount_path: /mnt/data, uri: cpfs://cpfs-1.example/data}]
env: {WANDB_MODE: offline}
dlc: {workspace_id: "1234", resource_id: quota-1, cpu: "96", memory: 1600Gi}
"""


def test_a_site_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE_FILE)
    assert load_site(tmp_path / "site.yaml") == FULL_SITE


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("imgae: x", "unknown key 'imgae'"),
        ("dlc: {quota: x}", "unknown key 'dlc.quota'"),
        ("dataset: a.jsonl", "dataset"),
        ("env: {A-B: x}", "env"),
        ("workspace: runs", "workspace"),
        ("image: a b", "image"),
        ("mounts: [{mount_path: /a}]", "give either data_source_id or uri"),
        ("mounts: [{mount_path: /a, uri: x, data_source_id: y}]", "give either"),
    ],
)
def test_a_mistake_in_a_site_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "site.yaml").write_text(content)
    with pytest.raises(UsageError, match=words):
        load_site(tmp_path / "site.yaml")


def test_paths_that_are_here_become_absolute_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "a.jsonl").touch()
    site = Site(model_path="./model/", dataset=("a.jsonl#500", "AI-ModelScope/alpaca#9", "/b", ""))
    found = with_absolute_paths(site)
    assert found.model_path == str(tmp_path / "model")
    assert found.dataset == (f"{tmp_path}/a.jsonl#500", "AI-ModelScope/alpaca#9", "/b", "")


def test_mounts_are_data_sources() -> None:
    site = replace(FULL_SITE, mounts=(Mount(mount_path="/a", data_source_id="d-1"),))
    sources = job(make_run(ep=8, site=site), "/x")["DataSources"]
    assert sources == [{"DataSourceId": "d-1", "MountPath": "/a"}]


def test_the_site_file_of_the_documents_is_one(tmp_path: Path) -> None:
    documents = Path(__file__).parent.parent.parent / "docs" / "run-folder.md"
    example = documents.read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "site.yaml").write_text(example)
    assert load_site(tmp_path / "site.yaml").template == "qwen3"


# -- README.md -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (make_run(pp=2, ep=8), "replace `num_train_epochs` by `train_iters`"),
        (
            make_run(pp=2, ep=8, settings=("train_iters=10",), train_iters=10),
            "replace `train_iters` by `num_train_epochs`",
        ),
        (make_run(pp=2, ep=8, stack="ms-swift-3.12"), "replace `max_epochs` by `train_iters`"),
        (
            make_run(pp=2, ep=8, settings=("optimizer=sgd", "use_distributed_optimizer=false")),
            "284 GiB: 2 bytes a parameter, and 8 of the optimizer for each that is trained",
        ),
        (
            make_run(pp=2, ep=8, settings=("no_save_optim=true",)),
            "57 GiB: 2 bytes a parameter.",
        ),
    ],
    ids=["epochs", "iterations", "an old release", "sgd", "weights only"],
)
def test_the_readme_is_of_what_is_trained(run: Run, says: str) -> None:
    assert says in render(run, Path("/runs/one"))["README.md"]


def test_a_checkpoint_has_no_states_of_a_frozen_vision_tower() -> None:
    run = make_run("Llama-4-Scout-17B-16E-Instruct", num_nodes=16, pp=8, ep=16)
    assert run.model.vision is not None
    parameters, frozen = sum(model_parameters(run.model).values()), run.model.vision.parameters
    expected = (2 * parameters + 12 * (parameters - frozen)) / 2**30
    assert round(expected) != round(14 * parameters / 2**30)
    readme = render(run, Path("/runs/one"))["README.md"]
    assert f"A checkpoint takes about {expected:.0f} GiB: 2 bytes a parameter, and 12 of" in readme
