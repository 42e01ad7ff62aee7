"""Plain hosts: two "nodes" on this machine run the emitted scripts, and what a submission says."""

from pathlib import Path

import pytest
from loopback_hosts import Cluster

from launch.hosts import HostsBackend
from launch.jobs import BackendName
from launch.submission import Submission, write_submission
from planner.site import Hosts


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
def test_stopping_stops_all_nodes(cluster: Cluster) -> None:
    handle = cluster.submit()
    answer = cluster.answer("stop", handle)
    assert answer["state"] == "stopped"
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
