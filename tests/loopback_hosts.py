"""Two "nodes" on this machine for tests of plain hosts, with stand-ins for ssh and for training.

`localhost` needs no ssh. Other names go through a stand-in for ssh that hands its command to a
shell, as sshd does, and can be slow or refuse.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recorder import LAUNCHER
from runs import make_run

from launch.run_folder import write_run_folder
from planner.site import Site
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
        return [str(pid) for pid in pids if pid and is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
