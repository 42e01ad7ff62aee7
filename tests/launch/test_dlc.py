"""PAI-DLC through its own SDK, against a service on this machine: one job, never two."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dlc_server import Service, dlc_service
from runs import FULL_SITE, make_run

from launch.dlc_backend import TAG, DlcBackend, after
from launch.dlc_client import PAUSES, DlcClient
from launch.jobs import Handle, State, parse_handle
from launch.run_folder import write_run_folder
from planner.errors import EnvironmentLacksError, PlannerError, UsageError
from planner.run import Run
from planner.site import Dlc

SECRET = "sEcReT-of-the-test"
CREDENTIALS = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "id-of-the-test",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": SECRET,
    "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
}
SITE_DLC = Dlc(region="cn-x", workspace_id="7", resource_id="q1", cpu="96", memory="1600Gi")


@pytest.fixture
def service() -> Iterator[Service]:
    with dlc_service() as running:
        yield running


def run_on(service: Service) -> Run:
    dlc = replace(SITE_DLC, endpoint=service.endpoint)
    return make_run(ep=8, site=replace(FULL_SITE, dlc=dlc))


def client_of(service: Service, pauses: list[float]) -> DlcClient:
    from alibabacloud_pai_dlc20201203.client import Client
    from alibabacloud_tea_openapi.models import Config

    config = Config(
        access_key_id="id",
        access_key_secret=SECRET,
        region_id="cn-x",
        endpoint=service.endpoint.removeprefix("http://"),
        protocol="http",
    )
    return DlcClient(client=Client(config), pause=pauses.append)


class Bench:
    """A backend whose pauses are counted instead of waited for."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.pauses: list[float] = []
        run = run_on(service)
        write_run_folder(run, folder)
        self.backend = DlcBackend(
            dlc=run.site.dlc,
            job_file=folder / "job.json",
            connect=lambda _: client_of(service, self.pauses),
        )


@pytest.fixture
def bench(service: Service, tmp_path: Path) -> Bench:
    return Bench(service, tmp_path / "run")


# -- one job, never two ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fates",
    [
        [],
        ["throttle", "throttle"],
        ["fail"],
        ["fail after accepting"],
        ["hang up after accepting"],
        ["throttle", "fail", "fail after accepting"],
    ],
    ids=", ".join,
)
def test_a_submission_makes_one_job_whatever_the_service_does(
    service: Service, bench: Bench, fates: list[str]
) -> None:
    service.creates = list(fates)
    handle = bench.backend.submit("a1b2c3d4")
    assert handle == Handle("dlc", "dlc1")
    (job,) = service.jobs.values()
    assert job["DisplayName"].endswith("-a1b2c3d4")
    assert job["Settings"]["Tags"] == {TAG: "a1b2c3d4"}


def test_a_job_that_the_list_shows_late_is_not_created_again(
    service: Service, bench: Bench
) -> None:
    service.creates = ["fail after accepting"]
    service.hidden = 1
    assert bench.backend.submit("a1b2c3d4").name == "dlc1"
    assert len(service.jobs) == 1


def test_what_is_refused_is_not_asked_again(service: Service, bench: Bench) -> None:
    service.creates = ["refuse"]
    with pytest.raises(UsageError, match=r"PAI-DLC refused: No: .*not now"):
        bench.backend.submit("a1b2c3d4")
    assert service.asked == [("POST", "/api/v1/jobs")]


def test_a_service_that_never_answers_is_given_up_after_a_look(
    service: Service, bench: Bench
) -> None:
    service.creates = ["fail"] * 9
    with pytest.raises(EnvironmentLacksError) as gave_up:
        bench.backend.submit("a1b2c3d4")
    assert "submission looks first" in gave_up.value.fix
    creates = [path for method, path in service.asked if method == "POST"]
    assert len(creates) == len(PAUSES) + 1
    assert service.jobs == {}


def test_a_job_of_a_similar_name_is_not_taken_for_the_own(service: Service, bench: Bench) -> None:
    bench.backend.submit("a1b2c3d4x")
    assert bench.backend.recover("a1b2c3d4") is None
    assert bench.backend.recover("a1b2c3d4x") == Handle("dlc", "dlc1")


@pytest.mark.parametrize("statuses", [[503], [429, 503]])
def test_reads_are_repeated(service: Service, bench: Bench, statuses: list[int]) -> None:
    handle = bench.backend.submit("a1b2c3d4")
    service.reads = list(statuses)
    assert bench.backend.status(handle).state is State.RUNNING
    assert bench.pauses == list(PAUSES[: len(statuses)])


# -- status, logs, stop ----------------------------------------------------------------------------


def test_nodes_are_in_the_order_of_their_ranks(service: Service, bench: Bench) -> None:
    status = bench.backend.status(bench.backend.submit("a1b2c3d4"))
    assert [node.name for node in status.nodes] == ["dlc1-worker-0", "dlc1-worker-1"]


@pytest.mark.parametrize(
    ("word", "state"), [("Queuing", "waiting"), ("Failed", "failed"), ("Stopped", "stopped")]
)
def test_a_state_has_the_services_reason(
    service: Service, bench: Bench, word: str, state: str
) -> None:
    handle = bench.backend.submit("a1b2c3d4")
    service.jobs[handle.name] |= {"Status": word, "ReasonCode": "R", "ReasonMessage": "why\nso"}
    status = bench.backend.status(handle)
    assert (status.state.value, status.detail) == (state, f"{word}, R, why so")
    assert status.events == (() if state == "stopped" else ("the quota is full",))


def test_an_unknown_job_is_said_to_be(service: Service, bench: Bench) -> None:
    with pytest.raises(UsageError, match="JobNotExists"):
        bench.backend.status(parse_handle("dlc://dlc99"))


def test_stopping_stops(service: Service, bench: Bench) -> None:
    handle = bench.backend.submit("a1b2c3d4")
    assert bench.backend.stop(handle).state is State.STOPPED


def test_logs_are_followed_until_the_job_ends(service: Service, bench: Bench) -> None:
    handle = bench.backend.submit("a1b2c3d4")
    pieces = bench.backend.logs(handle, node=1, lines=2, follow=True)
    assert [next(pieces), next(pieces)] == ["one\n", "two\n"]
    service.logs = ["two", "three"]
    assert next(pieces) == "three\n"
    service.jobs[handle.name]["Status"] = "Succeeded"
    assert list(pieces) == []
    assert ("GET", "/api/v1/jobs/dlc1/pods/dlc1-worker-1/logs") in service.asked


def test_a_node_that_the_job_has_not_is_refused(service: Service, bench: Bench) -> None:
    handle = bench.backend.submit("a1b2c3d4")
    with pytest.raises(UsageError, match="no node 2: it has 2"):
        list(bench.backend.logs(handle, node=2, lines=1, follow=False))


@pytest.mark.parametrize(
    ("shown", "now", "new"),
    [
        (["a", "b"], ["b", "c"], ["c"]),
        (["a", "b"], ["a", "b"], []),
        ([], ["a"], ["a"]),
        (["a"], ["x", "y"], ["x", "y"]),
        (["a", "a"], ["a", "a", "a"], ["a"]),
    ],
)
def test_lines_are_shown_once(shown: list[str], now: list[str], new: list[str]) -> None:
    assert after(shown, now) == new


# -- the commands ----------------------------------------------------------------------------------


def command(*words: object, folder: Path, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", "from launch.cli import main; main()", *map(str, words)],
        env={**os.environ, **CREDENTIALS, **env},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def finished(*words: object, folder: Path, **env: str) -> tuple[int, str, str]:
    with command(*words, folder=folder, **env) as process:
        out, err = process.communicate()
    assert SECRET not in out + err
    return process.returncode, out, err


@pytest.mark.slow
def test_a_run_is_submitted_watched_and_stopped(service: Service, tmp_path: Path) -> None:
    write_run_folder(run_on(service), tmp_path / "run")
    status, out, err = finished("submit", "run", "--yes", "--json", folder=tmp_path)
    assert status == 0, err
    assert json.loads(out)["handle"] == "dlc://dlc1"
    _, out, _ = finished("status", "run", "--json", folder=tmp_path)
    assert json.loads(out)["state"] == "running"
    status, out, err = finished("submit", "run", "--yes", folder=tmp_path)
    assert (status, out) == (2, "")
    assert "its job dlc://dlc1 is running; moe-launch stop run first" in err
    _, out, _ = finished("logs", "run", folder=tmp_path)
    assert out == "one\ntwo\n"
    _, out, _ = finished("logs", "run", "--json", folder=tmp_path)
    assert json.loads(out)["lines"] == ["one", "two"]
    _, out, _ = finished("stop", "run", folder=tmp_path)
    assert out.startswith("dlc://dlc1 stopped: Stopped\n")
    assert len(service.jobs) == 1
    service.jobs.clear()
    status, _, err = finished("status", "run", folder=tmp_path)
    assert (status, "has no such job: JobNotExists" in err) == (2, True)
    status, out, err = finished("submit", "run", "--yes", folder=tmp_path)
    assert status == 0, err
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET in path.read_text()]


@pytest.mark.slow
def test_what_was_refused_was_never_submitted(service: Service, tmp_path: Path) -> None:
    write_run_folder(run_on(service), tmp_path / "run")
    service.creates = ["refuse"]
    status, _, err = finished("submit", "run", "--yes", folder=tmp_path)
    assert (status, "PAI-DLC refused" in err) == (2, True)
    _, _, err = finished("status", "run", folder=tmp_path)
    assert "run was not submitted yet" in err
    assert finished("submit", "run", "--yes", folder=tmp_path)[0] == 0
    (handle,) = service.jobs
    service.jobs[handle]["Status"] = "Failed"
    service.creates = ["refuse"]
    assert finished("submit", "run", "--yes", folder=tmp_path)[0] == 2
    _, out, _ = finished("status", "run", folder=tmp_path)
    assert out.startswith(f"dlc://{handle} failed")


@pytest.mark.slow
def test_a_submitter_that_is_killed_before_its_answer_leaves_one_job(
    service: Service, tmp_path: Path
) -> None:
    write_run_folder(run_on(service), tmp_path / "run")
    service.answers.clear()
    with command("submit", "run", "--yes", folder=tmp_path) as process:
        assert service.accepted.wait(60)
        process.send_signal(signal.SIGKILL)
    service.answers.set()
    status, _, err = finished("status", "run", folder=tmp_path)
    assert status == 2
    assert "cut off" in err and "moe-launch submit run" in err
    status, out, err = finished("submit", "run", "--yes", "--json", folder=tmp_path)
    assert status == 0, err
    assert json.loads(out)["handle"] == "dlc://dlc1"
    assert len(service.jobs) == 1


def test_a_dry_run_shows_the_request_and_sends_nothing(service: Service, tmp_path: Path) -> None:
    write_run_folder(run_on(service), tmp_path / "run")
    status, out, err = finished("submit", "run", "--dry-run", folder=tmp_path)
    assert status == 0, err
    assert json.loads(out)["UserCommand"] == "bash /mnt/data/plans/mine/train.sh"
    assert (service.asked, service.jobs) == ([], {})


def test_nothing_is_sent_where_nobody_can_be_asked(service: Service, tmp_path: Path) -> None:
    write_run_folder(run_on(service), tmp_path / "run")
    status, out, err = finished("submit", "run", folder=tmp_path)
    assert (status, out) == (2, "")
    assert "--yes to submit, --dry-run to look" in err
    assert service.asked == []


@pytest.mark.slow
@pytest.mark.parametrize(("said", "status", "jobs"), [("n\n", 130, 0), ("y\n", 0, 1)])
def test_a_person_is_shown_the_request_and_asked(
    service: Service, tmp_path: Path, said: str, status: int, jobs: int
) -> None:
    write_run_folder(run_on(service), tmp_path / "run")
    terminal, inner = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "from launch.cli import main; main()", "submit", "run"],
        env={**os.environ, **CREDENTIALS},
        cwd=tmp_path,
        stdin=inner,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(terminal, said.encode())
        out, err = process.communicate()
    os.close(terminal)
    os.close(inner)
    assert process.returncode == status, err
    assert '"UserCommand": "bash /mnt/data/plans/mine/train.sh"' in out
    assert "Submit this to dlc? [y/N]" in err
    assert len(service.jobs) == jobs


def test_without_credentials_one_sentence_says_so(service: Service, tmp_path: Path) -> None:
    write_run_folder(run_on(service), tmp_path / "run")
    nothing = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": ""}
    status, out, err = finished(
        "submit", "run", "--yes", folder=tmp_path, HOME=str(tmp_path), **nothing
    )
    assert (status, out) == (4, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: no credentials were found for PAI-DLC: ")
    assert "not submitted yet" in finished("status", "run", folder=tmp_path)[2]


def test_what_the_sdk_says_of_its_providers_is_not_printed(service: Service) -> None:
    """In a process of its own: the SDK reads its variables when it is imported."""
    code = f"""
import logging
from launch.dlc_client import connect
from planner.site import Dlc
connect({run_on(service).site.dlc!r})
logging.getLogger("credentials").error("Refresh credentials failed")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **CREDENTIALS},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ran.stdout, ran.stderr) == ("", "")


def test_a_job_file_that_somebody_spoiled_is_refused_before_it_is_sent(
    service: Service, tmp_path: Path
) -> None:
    write_run_folder(run_on(service), tmp_path / "run")
    path = tmp_path / "run" / "job.json"
    path.write_text(path.read_text().replace('"PodCount"', '"PodsCount"'))
    status, _, err = finished("submit", "run", "--yes", folder=tmp_path)
    assert status == 2
    assert "unknown key 'JobSpecs.0.PodsCount'; the nearest is PodCount" in err
    assert service.asked == []


@pytest.mark.parametrize("text", ["", "dlc1", "dlc://", "slurm://1", "x" * 300])
def test_what_is_no_handle_is_refused(text: str) -> None:
    with pytest.raises(PlannerError, match="is not the handle of a job"):
        parse_handle(text)
