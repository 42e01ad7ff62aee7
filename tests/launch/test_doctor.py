"""moe-launch doctor: every trouble is found before a machine is taken, and a sound run has none."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dlc_server import Service, dlc_service
from golden_files import check_golden
from runs import FULL_SITE, make_run

from launch.doctor import Patient, examine
from launch.doctor_online import examine_online
from launch.jobs import BackendName
from launch.preflight.judge import Row
from launch.run_folder import write_run_folder
from launch.submission import Submission, write_submission
from planner.errors import UsageError
from planner.layout import Layout
from planner.plan import BrokenRule, Reason
from planner.run import Asked, Run, read_run
from planner.settings import read_settings
from planner.site import Dlc, Hosts, Mount, Site
from planner.workload import Load, Workload

ON_DLC = replace(
    FULL_SITE,
    dlc=Dlc(region="cn-x", workspace_id="7", resource_id="q1", ecs_spec="ml.big"),
)


def examined(run: Run, tmp_path: Path, *, spoil: Any = None) -> dict[str, Row]:
    """The rows of a run, by name; `spoil` changes its folder first."""
    folder = tmp_path / "run"
    write_run_folder(run, folder)
    if spoil:
        spoil(folder)
    return {row.name: row for row in examine(Patient(run, folder))}


def test_a_sound_run_has_no_trouble(tmp_path: Path) -> None:
    rows = examined(make_run(ep=8, site=ON_DLC), tmp_path)
    assert {row.level for row in rows.values()} == {"ok"}
    assert rows.keys() == {*("plan", "batch", "timeout", "resume", "files", "job", "mounts")}


def with_layout(run: Run, **changed: Any) -> Run:
    layout: Layout = replace(run.plan.layout, **changed)
    return replace(run, plan=replace(run.plan, layout=layout))


def with_args(run: Run, **changed: Any) -> Run:
    return replace(run, plan=replace(run.plan, args=run.plan.args | changed))


RUN = make_run(ep=8, site=ON_DLC)
BROKEN = BrokenRule(rule="r", kind="illegal", message="ep 8 is wrong", fix="--ep 4", source="s")
LACKS = Reason(
    "reason.host",
    {"moment": "saving", "needed_gib": 300, "has_gib": 256, "instead": "take 2 nodes"},
)
ASSUMED = Reason("reason.host_assumed", {**LACKS.values, "topology": "mine"})
NEVER_SAVED = make_run(ep=8, site=ON_DLC, settings=("no_save_optim=true",))
RESTARTED = replace(ON_DLC, dlc=replace(ON_DLC.dlc, max_restarts=2))
TROUBLES: dict[str, tuple[Run, str, str, str]] = {
    "an illegal plan": (
        replace(RUN, plan=replace(RUN.plan, violations=[BROKEN])),
        "plan",
        "FAIL",
        "ep 8 is wrong",
    ),
    "a plan that is too large": (
        replace(RUN, plan=replace(RUN.plan, verdict="exceeds")),
        "plan",
        "FAIL",
        "does not fit",
    ),
    "a checkpoint that is too large for its hosts": (
        replace(RUN, plan=replace(RUN.plan, verdict="exceeds", reasons=[LACKS])),
        "plan",
        "FAIL",
        "does not fit: saving takes 300 GiB of a node's memory",
    ),
    "a tight plan": (
        replace(RUN, plan=replace(RUN.plan, verdict="tight")),
        "plan",
        "warn",
        "only just",
    ),
    "hosts whose memory is only assumed": (
        replace(RUN, plan=replace(RUN.plan, verdict="tight", reasons=[ASSUMED])),
        "plan",
        "warn",
        "it may not fit: saving takes 300 GiB of a node's memory, roughly, and mine assumes 256",
    ),
    "a batch that replicas cannot share": (
        with_layout(RUN, global_batch_size=17),
        "batch",
        "FAIL",
        "17 is not a multiple of micro batch x replicas, 16",
    ),
    "a dispatcher that is not there": (
        with_args(RUN, moe_token_dispatcher_type="flex"),
        "dispatcher",
        "FAIL",
        "flex cannot run on ms-swift-4.6",
    ),
    "208 days": (with_args(RUN, ddp_timeout=18_000_000), "timeout", "warn", "becomes a hang"),
    "a short timeout": (with_args(RUN, ddp_timeout=60), "timeout", "warn", "may take longer"),
    "another folder at every start": (
        with_args(RUN, add_version=True),
        "resume",
        "FAIL",
        "another folder",
    ),
    "nothing to go on from": (NEVER_SAVED, "resume", "warn", "leave out the optimizer's states"),
    "restarts with nothing to go on from": (
        replace(NEVER_SAVED, site=RESTARTED),
        "resume",
        "FAIL",
        "leave out the optimizer's states",
    ),
    "states that are not read": (
        with_args(RUN, no_load_optim=True),
        "resume",
        "warn",
        "the learning rate are those of a first step",
    ),
    "streaming": (with_args(RUN, streaming=True), "resume", "warn", "cannot skip data"),
    "hours between checkpoints": (
        replace(RUN, plan=replace(RUN.plan, step_seconds={"total": 60.0})),
        "saving",
        "warn",
        "about 3.3 hours",
    ),
    "hosts of another number": (
        replace(RUN, site=replace(ON_DLC, hosts=Hosts(addresses=("a",)))),
        "hosts",
        "FAIL",
        "the run is for 2 nodes, not for 1 hosts (a)",
    ),
    "a site without an image": (
        replace(RUN, site=replace(ON_DLC, image="")),
        "job",
        "FAIL",
        "the site file lacks image",
    ),
    "data that no mount has": (
        replace(RUN, site=replace(ON_DLC, dataset=("/elsewhere/a.jsonl#5",))),
        "mounts",
        "FAIL",
        "data /elsewhere/a.jsonl is on none of the job's mounts",
    ),
    "a mount whose name only begins so": (
        replace(RUN, site=replace(ON_DLC, mounts=(Mount(mount_path="/mnt/da", uri="oss://x"),))),
        "mounts",
        "FAIL",
        "run folder /mnt/data/plans/mine is on none",
    ),
    "hang detection without restarts": (
        replace(RUN, site=replace(ON_DLC, dlc=replace(ON_DLC.dlc, hang_seconds=600))),
        "hang",
        "warn",
        "does nothing without dlc.max_restarts",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_is_found_and_has_a_way_out(tmp_path: Path, name: str) -> None:
    run, row_name, level, words = TROUBLES[name]
    rows = examined(run, tmp_path)
    row = rows.pop(row_name)
    assert (row.level, words in row.found) == (level, True), row.found
    assert row.fix
    assert {each.level for each in rows.values()} == {"ok"}


def test_scripts_that_somebody_changed_are_named(tmp_path: Path) -> None:
    def spoil(folder: Path) -> None:
        (folder / "train.yaml").write_text("lr: 1\n")
        (folder / "node_env.sh").unlink()

    row = examined(RUN, tmp_path, spoil=spoil)["files"]
    assert (row.level, row.found) == ("warn", "not as run.json says: train.yaml, node_env.sh")


def test_a_job_that_pai_dlc_would_refuse_is_found(tmp_path: Path) -> None:
    def spoil(folder: Path) -> None:
        path = folder / "job.json"
        path.write_text(path.read_text().replace('"PyTorchJob"', '"PytorchJob"'))

    row = examined(RUN, tmp_path, spoil=spoil)["job"]
    assert row.failed
    assert "JobType" in row.found


# -- asking the service ----------------------------------------------------------------------------


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with dlc_service() as running:
        yield running


def command(folder: Path, *words: str) -> tuple[int, str, str]:
    credentials = {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "id",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret-of-the-test",
        "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
    }
    ran = subprocess.run(
        [sys.executable, "-c", "from launch.cli import main; main()", "doctor", *words],
        env={**os.environ, **credentials},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "secret-of-the-test" not in ran.stdout + ran.stderr
    return ran.returncode, ran.stdout, ran.stderr


def site_of(service: Service, **changed: Any) -> Site:
    return replace(ON_DLC, dlc=replace(ON_DLC.dlc, endpoint=service.endpoint, **changed))


def test_golden_doctor_online(service: Service, tmp_path: Path) -> None:
    """Credentials, queue and instance type; reads, and nothing else."""
    write_run_folder(make_run(ep=8, site=site_of(service)), tmp_path / "run")
    status, out, err = command(tmp_path, "run", "--online")
    assert status == 0, err
    check_golden("cli/doctor-online.txt", out)
    assert {method for method, _ in service.asked} == {"GET"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "gpus", "words"),
    [("ml.none", 8, "the region has no ml.none"), ("ml.big", 4, "has 8 x X, the plan wants 4")],
)
def test_an_instance_type_that_cannot_be_is_found(
    service: Service, tmp_path: Path, spec: str, gpus: int, words: str
) -> None:
    run = make_run(gpus_per_node=gpus, ep=gpus, site=site_of(service, ecs_spec=spec))
    write_run_folder(run, tmp_path / "run")
    status, out, _ = command(tmp_path, "run", "--online", "--json")
    rows = {row["name"]: row for row in json.loads(out)["checks"]}
    assert status == 2
    assert words in rows["spec"]["found"]


def test_hosts_that_cannot_be_reached_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\necho 'no route' >&2; exit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    run = make_run(ep=8, site=replace(FULL_SITE, dlc=Dlc(), hosts=Hosts(addresses=("a", "b"))))
    (row,) = examine_online(Patient(run, tmp_path))
    assert row.failed
    assert row.found == "a: no route"


# -- a run.json that somebody changed --------------------------------------------------------------

ASKED = Asked(topology="h100-8x-ib", workload=Workload(), settings=read_settings(()))


def changed_run(folder: Path, **changed: Any) -> Run:
    """A run whose run.json has other sizes, in its layout and in its arguments."""
    run = make_run(ep=8, load=Load.DIRECT, site=FULL_SITE)
    write_run_folder(replace(run, asked=ASKED), folder)
    path = folder / "run.json"
    content = json.loads(path.read_text())
    for name, value in changed.items():
        content["plan"]["layout"][name] = content["plan"]["args"][name] = value
    path.write_text(json.dumps(content))
    return read_run(folder)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"micro_batch_size": 3}, "16 is not a multiple of micro-batch size*dp"),
        ({"expert_model_parallel_size": 1}, "does not fit"),
    ],
)
def test_a_layout_that_was_changed_is_judged_again(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    run = changed_run(tmp_path / "run", **changed)
    rows = {row.name: row for row in examine(Patient(run, tmp_path / "run"))}
    assert rows["plan"].failed
    assert words in rows["plan"].found


def test_arguments_that_were_changed_are_named(tmp_path: Path) -> None:
    run = changed_run(tmp_path / "run")
    rows = {row.name for row in examine(Patient(run, tmp_path / "run"))}
    assert "arguments" not in rows
    other = with_args(run, lr=1.0, train_iters=5)
    rows = {row.name: row for row in examine(Patient(other, tmp_path / "run"))}
    assert "lr 1e-05 -> 1.0" in rows["arguments"].found
    assert "train_iters not given -> 5" in rows["arguments"].found


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"expert_model_parallel_size": 7}, "do not make up the plan's number of GPUs"),
        ({"tensor_model_parallel_size": 0}, "do not make up"),
        ({"micro_batch_size": "2"}, "do not make up"),
        ({"pipeline_model_parallel_size": 2}, "do not make up"),
    ],
)
def test_a_layout_that_is_none_is_read_by_no_command(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        changed_run(tmp_path / "run", **changed)


def test_arguments_of_another_layout_are_read_by_no_command(tmp_path: Path) -> None:
    changed_run(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    content = json.loads(path.read_text())
    content["plan"]["args"]["expert_model_parallel_size"] = 4
    path.write_text(json.dumps(content))
    status, out, err = command(tmp_path, "run")
    assert (status, out) == (2, "")
    assert "plan.args and plan.layout contradict each other" in err


@pytest.mark.parametrize(
    ("submitted", "given", "found"),
    [
        ((), "", "neither hosts nor a workspace"),
        (("c", "c"), "", "c is given for two nodes"),
        (("c", "c"), "localhost,localhost", "all 2 are reached"),
    ],
)
def test_hosts_of_the_command_line_are_asked_else_those_of_the_last_submission(
    tmp_path: Path, submitted: tuple[str, ...], given: str, found: str
) -> None:
    """Where neither is known, that is said: no answer would look like a good one."""
    write_run_folder(make_run(ep=8), tmp_path / "run")
    if submitted:
        last = Submission(backend=BackendName.HOSTS, id="a1", hosts=submitted)
        write_submission(tmp_path / "run", last)
    _, out, err = command(tmp_path, "run", "--online", *(("--hosts", given) if given else ()))
    assert found in out, err
