"""Plain hosts: two "nodes" on this machine run the emitted scripts; whatever dies, nothing is left.

`localhost` needs no ssh. Other names go through a stand-in for ssh that hands its command to a
shell, as sshd does, and can be slow or refuse.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recorder import LAUNCHER
from runs import make_run

from launch.hosts import HostsBackend
from launch.jobs import BackendName
from launch.run_folder import write_run_folder
from launch.submission import Submission, write_submission
from planner.site import Hosts, Site
from planner.workload import Load

TRAINING = """\
#!/bin/bash
echo "node $NODE_RANK of $NNODES at $MASTER_ADDR:$MASTER_PORT: $*"
sleep 1000 & echo $! >"$PIDS/$NODE_RANK.child"
echo $$ >"$PIDS/$NODE_RANK"
until [[ -e "$PIDS/end-$NODE_RANK" ]]; do sleep 0.1; done
exit "$(<"$PIDS/end-$NODE_RANK")"
"""
SSH = """\
#!/bin/bash
while [[ "$1" != -- ]]; do shift; done
host="$2"; shift 2
echo "$host" >>"$PIDS/reached"
[[ "$host" != down ]] || { echo "ssh: connect to host down port 22: refused" >&2; exit 255; }
[[ "$host" != slow* || "$*" != *' start '* ]] || { touch "$PIDS/slow"; sleep 5; }
exec bash -c "$*"
"""


class Cluster:
    """A run folder and machines that train by waiting until they are told how to end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "a run"
        self.pids = root / "pids"
        self.pids.mkdir()
        bin_folder = root / "bin"
        bin_folder.mkdir()
        for name, text in (("megatron", TRAINING), ("ssh", SSH)):
            (bin_folder / name).write_text(text)
            (bin_folder / name).chmod(0o755)
        self.there = root / "as nodes see it"
        site = Site(model_path="/m", dataset=("/d",), run_folder=str(self.there))
        run = make_run(ep=2, num_nodes=2, gpus_per_node=1, load=Load.DIRECT, site=site)
        write_run_folder(run, self.run)
        self.there.symlink_to(self.run)
        clean = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
        search = os.pathsep.join([str(bin_folder), "/usr/bin", "/bin"])
        self.env = {**clean, "PATH": search, "PIDS": str(self.pids), "PREFLIGHT": "0"}

    def start(self, *words: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", "from launch.cli import main; main()", *map(str, words)],
            env=self.env,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *words: object) -> tuple[int, str, str]:
        with self.start(*words) as process:
            out, err = process.communicate()
        return process.returncode, out, err

    def answer(self, *words: object) -> Any:
        status, out, err = self.command(*words, "--json")
        assert status == 0, err
        return json.loads(out)

    def submit(self, hosts: str = "localhost,localhost") -> str:
        handle: str = self.answer("submit", self.run, "--hosts", hosts, "--yes")["handle"]
        self.wait(lambda: self.pid(0) and self.pid(1))
        return handle

    def pid(self, node: int, suffix: str = "") -> int:
        path = self.pids / f"{node}{suffix}"
        return int(path.read_text() or 0) if path.exists() else 0

    def end(self, node: int, status: int) -> None:
        (self.pids / f"end-{node}").write_text(str(status))

    def states(self) -> list[str]:
        return [node["state"] for node in self.answer("status", self.run)["nodes"]]

    def ended(self) -> list[str]:
        """How each node ended, when all have."""
        files = [next(self.run.glob(f"launch/*/node-{node}.ended"), None) for node in (0, 1)]
        return [path.read_text().strip() for path in files if path]

    def wait(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def left(self) -> list[str]:
        """What still runs of all that training started."""
        pids = [self.pid(node, suffix) for node in (0, 1) for suffix in ("", ".child")]
        return [str(pid) for pid in pids if pid and _is_running(pid)]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    for pid in made.left():
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.slow
def test_a_run_goes_from_submission_to_its_end(cluster: Cluster) -> None:
    handle = cluster.submit()
    assert handle == f"hosts://{cluster.run}#{handle[-8:]}"
    assert cluster.states() == ["running", "running"]
    status, out, err = cluster.command("submit", cluster.run, "--hosts", "a,b", "--yes")
    assert (status, out) == (2, "")
    assert "was submitted already" in err
    for node in (0, 1):
        cluster.end(node, 0)
    cluster.wait(lambda: len(cluster.ended()) == 2)
    assert cluster.states() == ["succeeded", "succeeded"]
    _, out, _ = cluster.command("logs", handle, "--node", 1)
    assert out.endswith("node 1 of 2 at localhost:29500: sft train.yaml\n")
    assert cluster.left() == []


@pytest.mark.slow
def test_when_one_node_fails_all_stop_and_say_why(cluster: Cluster) -> None:
    cluster.submit()
    cluster.end(1, 3)
    cluster.wait(lambda: len(cluster.ended()) == 2)
    assert cluster.ended() == ["143 because node-1 failed", "3"]
    nodes = cluster.answer("status", cluster.run)["nodes"]
    assert [node["detail"] for node in nodes] == [
        "with status 143 because node-1 failed",
        "with status 3",
    ]
    assert cluster.left() == []


@pytest.mark.parametrize(
    ("ended", "detail"),
    [
        ("69 ", "with status 69 train.sh: no megatron here"),
        ("1 ", "with status 1"),
        ("143 because node-1 failed", "with status 143 because node-1 failed"),
    ],
)
def test_a_node_that_the_scripts_stopped_says_why(
    cluster: Cluster, ended: str, detail: str
) -> None:
    """Their last line is the reason; the last one of ms-swift says nothing."""
    folder = cluster.run / "launch" / "a1"
    folder.mkdir(parents=True)
    (folder / "node-0.ended").write_text(f"{ended}\n")
    (folder / "node-0.log").write_text("megatron sft\ntrain.sh: no megatron here\n")
    hosts, handle = ("localhost", "localhost"), f"hosts://{cluster.run}#a1"
    last = Submission(backend=BackendName.HOSTS, id="a1", hosts=hosts, handle=handle)
    write_submission(cluster.run, last)
    first, second = cluster.answer("status", cluster.run)["nodes"]
    assert (first["state"], first["detail"].strip()) == ("failed", detail)
    assert second["state"] == "waiting"


@pytest.mark.slow
def test_a_killed_node_script_leaves_no_process_anywhere(cluster: Cluster) -> None:
    cluster.submit()
    os.kill(cluster.pid(0), signal.SIGKILL)
    cluster.wait(lambda: len(cluster.ended()) == 2)
    assert cluster.ended() == ["137", "143 because node-0 failed"]
    assert cluster.left() == []


@pytest.mark.slow
def test_stopping_stops_all_nodes(cluster: Cluster) -> None:
    handle = cluster.submit()
    answer = cluster.answer("stop", handle)
    assert answer["state"] == "stopped"
    assert cluster.left() == []


def kill_scripts(cluster: Cluster, *names: str) -> None:
    """Kill what runs on_host.sh for node 0; the guard, if at all, first."""
    for name in names:
        (path,) = cluster.run.glob(f"launch/*/node-0.{name}")
        os.kill(int(path.read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_watcher_leaves_no_process_and_the_others_stop(cluster: Cluster) -> None:
    cluster.submit()
    kill_scripts(cluster, "pid")
    cluster.wait(lambda: len(cluster.ended()) == 2)
    assert cluster.ended() == [
        "137 because on_host.sh was killed",
        "143 because on_host.sh of node-0 was killed",
    ]
    assert cluster.states() == ["failed", "failed"]
    assert cluster.left() == []


@pytest.mark.slow
def test_stopping_ends_what_killed_scripts_left(cluster: Cluster) -> None:
    handle = cluster.submit()
    kill_scripts(cluster, "guard", "pid")
    cluster.answer("stop", handle)
    assert cluster.left() == []


@pytest.mark.slow
def test_a_node_that_falls_silent_is_lost_and_the_others_stop(cluster: Cluster) -> None:
    cluster.submit()
    kill_scripts(cluster, "guard", "pid")
    (sign,) = cluster.run.glob("launch/*/node-0.alive")
    os.utime(sign, (time.time() - 100, time.time() - 100))
    cluster.wait(lambda: len(cluster.ended()) == 1)
    assert "because node-0 gave no sign of life for " in cluster.ended()[0]
    assert cluster.states() == ["lost", "failed"]
    assert cluster.answer("stop", cluster.run)["nodes"][0]["state"] == "lost"
    assert cluster.left() == []
    for node in (0, 1):
        (cluster.pids / str(node)).unlink()
    cluster.submit()
    cluster.answer("stop", cluster.run)


@pytest.mark.slow
def test_a_submitter_that_is_killed_between_two_hosts_leaves_one_run(cluster: Cluster) -> None:
    """The part that was started is ended by the next submission, which starts a whole run."""
    with cluster.start("submit", cluster.run, "--hosts", "a,slow", "--yes") as process:
        cluster.wait(lambda: (cluster.pids / "slow").exists() and cluster.pid(0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    first = cluster.pid(0)
    status, _, err = cluster.command("status", cluster.run)
    assert status == 2
    assert "was cut off before its job was known" in err
    (cluster.pids / "0").unlink()
    cluster.submit()
    assert not _is_running(first)
    assert cluster.states() == ["running", "running"]
    cluster.answer("stop", cluster.run)
    assert cluster.left() == []


def test_a_start_that_comes_after_the_stop_starts_nothing(cluster: Cluster) -> None:
    """As from a submitter that was killed while it waited for a slow host."""
    script = ["bash", str(cluster.run / "on_host.sh")]
    for action, status in (("stop", 0), ("start", 1)):
        ran = subprocess.run(
            [*script, action, "late", "1"],
            env=cluster.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == status
    assert "late was stopped before node 1 started" in ran.stderr
    assert cluster.left() == []
    assert not list(cluster.run.glob("launch/late/*.alive"))


FULL_DISK = """\
mount -t tmpfs -o size=600k tmpfs "$RUN" 2>/dev/null || exit 77
cp -r "$FILES/." "$RUN"
"$@" submit "$RUN" --hosts localhost,localhost --yes >&2
until [[ "$(ls "$RUN"/launch/*/*.ended 2>/dev/null | wc -l)" == 2 ]]; do sleep 0.2; done
"$@" status "$RUN" --json
"""
FILLS_THE_DISK = """\
#!/bin/bash
echo $$ >"$PIDS/$NODE_RANK"
sleep 1
cat /dev/zero >"saved-$NODE_RANK"
"""


@pytest.mark.slow
def test_a_node_that_fails_on_a_full_disk_can_still_say_so(cluster: Cluster) -> None:
    """What it says lies on that disk too: in room that was kept for it."""
    (cluster.root / "bin" / "megatron").write_text(FILLS_THE_DISK)
    files = cluster.root / "files"
    shutil.copytree(cluster.run, files)
    command = (sys.executable, "-c", "from launch.cli import main; main()")
    ran = subprocess.run(
        ["unshare", "-rm", "bash", "-ec", FULL_DISK, "-", *command],
        env={**cluster.env, "RUN": str(cluster.run), "FILES": str(files)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if ran.returncode == 77 or "unshare failed" in ran.stderr:
        pytest.skip("this machine lets nobody mount a small disk")
    assert ran.returncode == 0, ran.stderr
    nodes = json.loads(ran.stdout)["nodes"]
    assert [node["state"] for node in nodes] == ["failed", "failed"]
    assert f"with status 1 and the disk of {cluster.run} is full" in [n["detail"] for n in nodes]
    assert cluster.left() == []


@pytest.mark.slow
def test_of_two_submissions_at_once_one_is_refused(cluster: Cluster) -> None:
    with cluster.start("submit", cluster.run, "--hosts", "a,slow", "--yes") as first:
        cluster.wait((cluster.pids / "slow").exists)
        status, out, err = cluster.command("submit", cluster.run, "--hosts", "a,b", "--yes")
        assert (status, out) == (2, "")
        assert "another moe-launch submits" in err
        first.communicate()
        assert first.returncode == 0
    assert len(list(cluster.run.glob("launch/*"))) == 1
    cluster.answer("stop", cluster.run)
    assert cluster.left() == []


@pytest.mark.slow
def test_the_hosts_of_the_last_time_need_not_be_said_again(cluster: Cluster) -> None:
    cluster.submit("a,b")
    cluster.answer("stop", cluster.run)
    for node in (0, 1):
        (cluster.pids / str(node)).unlink()
    status, out, _ = cluster.command("submit", cluster.run, "--dry-run")
    assert (status, [line.split()[6] for line in out.splitlines()]) == (0, ["a", "b"])
    cluster.answer("submit", cluster.run, "--yes")
    assert cluster.states() == ["running", "running"]
    cluster.answer("stop", cluster.run)


def test_a_submission_that_started_nothing_leaves_the_one_before(cluster: Cluster) -> None:
    """None is cut off: nothing is to be looked for."""
    _, _, err = cluster.command("submit", cluster.run, "--hosts", "a,down", "--yes")
    assert "down: ssh" in err
    _, _, err = cluster.command("status", cluster.run)
    assert "was not submitted yet" in err


def test_where_a_host_cannot_be_reached_nothing_runs(cluster: Cluster) -> None:
    status, out, err = cluster.command("submit", cluster.run, "--hosts", "a,down", "--yes")
    assert (status, out) == (4, "")
    assert err.startswith("error: down: ssh: connect to host down port 22: refused; ssh down must")
    assert len(err.splitlines()) == 1
    assert not list(cluster.run.glob("launch/*/*"))


def test_a_host_without_the_run_folder_is_named(cluster: Cluster) -> None:
    (cluster.run / "on_host.sh").unlink()
    status, _, err = cluster.command("submit", cluster.run, "--hosts", "a,b", "--yes")
    assert status == 4
    assert f"a has no {cluster.there}/on_host.sh" in err


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ("a", "for 2 nodes, not for 1 hosts (a)"),
        ("a,a", "a is given for two nodes"),
        ("localhost,b", "b cannot reach node 0 at localhost, which is itself there"),
        ("a,-oProxyCommand=x", "must be a machine's name or address"),
        ("a,b c", "must be a machine's name or address"),
    ],
)
def test_hosts_that_cannot_be_are_refused(cluster: Cluster, hosts: str, words: str) -> None:
    status, _, err = cluster.command("submit", cluster.run, "--hosts", hosts, "--yes")
    assert status == 2
    assert words in err
    assert not (cluster.pids / "reached").exists()


def test_a_dry_run_shows_a_command_a_host_and_reaches_none(cluster: Cluster) -> None:
    status, out, _ = cluster.command("submit", cluster.run, "--hosts", "me@a,b", "--dry-run")
    assert status == 0
    first, second = out.splitlines()
    assert first.startswith("ssh -o BatchMode=yes -o ConnectTimeout=10 -- me@a 'env NNODES=2")
    assert "NODE_RANK=1 MASTER_ADDR=a MASTER_PORT=29500" in second
    assert not (cluster.pids / "reached").exists()


def test_options_of_ssh_come_from_the_site() -> None:
    hosts = Hosts(
        addresses=("a",),
        ssh_options=("Port=2222", "User=x y"),
        master_port=4,
        environment_file="/opt/env.sh",
    )
    shown = HostsBackend(hosts=hosts, run_folder="/r", here=Path("run")).shown()
    assert "-o Port=2222 -o 'User=x y' -- a 'env NNODES=1" in shown
    assert "MASTER_PORT=4 BASH_ENV=/opt/env.sh bash /r/on_host.sh start" in shown
