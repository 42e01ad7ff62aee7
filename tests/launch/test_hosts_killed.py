"""Plain hosts where something dies, falls silent or fills its disk: it is said, nothing is left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from loopback_hosts import Cluster, is_running


@pytest.mark.slow
def test_a_killed_node_script_leaves_no_process_anywhere(cluster: Cluster) -> None:
    cluster.submit()
    os.kill(cluster.pid(0), signal.SIGKILL)
    cluster.wait(lambda: len(cluster.ended()) == 2)
    assert cluster.ended() == ["137", "143 because node-0 failed"]
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
    assert not is_running(first)
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
        pytest.skip("this machine lets nobody mount a small disk")  # unshare needs the right to
    assert ran.returncode == 0, ran.stderr
    nodes = json.loads(ran.stdout)["nodes"]
    assert [node["state"] for node in nodes] == ["failed", "failed"]
    assert f"with status 1 and the disk of {cluster.run} is full" in [n["detail"] for n in nodes]
    assert cluster.left() == []
