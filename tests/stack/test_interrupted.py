"""A conversion by the real packages that is killed leaves nothing that looks complete, and runs to
its end the next time, from a clean start."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runs import make_run

from convert.findings import Verdict
from convert.verify import verify_hf, verify_torch_dist
from launch.run_folder import write_run_folder
from planner.run import Run
from planner.site import Site
from stack import models
from stack.emitted import node_environment, run_script

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def one_gpu(model: Path) -> Run:
    """A run of the small model on one GPU; its training does not matter here."""
    site = Site(model_path=str(model), dataset=("a.jsonl",))
    return make_run(str(model), num_nodes=1, gpus_per_node=1, site=site)


def kill_when(script: Path, appears: Path, *words: str) -> None:
    """Start a script and kill it with all that it started once a file is there."""
    process = subprocess.Popen(
        ["bash", str(script), *words],
        env=node_environment("0.16.1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not appears.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while others := processes_of(script.parent.parent):  # torchrun gives its own a session each
        for pid in others:
            with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def processes_of(folder: Path) -> list[int]:
    """What runs with a name of something in the folder among its arguments; zombies have none."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            if str(folder).encode() in each.read_bytes():
                found.append(int(each.parent.name))
    return found


def test_killed_conversions_leave_nothing_that_looks_complete_and_start_clean(
    tmp_path: Path,
) -> None:
    model = models.write_tiny_qwen3_moe(tmp_path / "tiny-qwen3-moe")
    folder = tmp_path / "run"
    write_run_folder(one_gpu(model), folder)

    there = folder / "convert_hf_to_mcore.sh"
    kill_when(there, folder / "mcore.partial" / "args.json")
    assert not (folder / "mcore").exists()
    left = folder / "mcore.partial" / "iter_0000001" / "__7_0.distcp"  # of more processes
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"left")
    run_script(there)
    whole = verify_torch_dist(folder / "mcore", source=model)
    assert whole.verdict is Verdict.SOUND, whole.findings
    assert not (folder / "mcore.partial").exists()

    back = folder / "convert_mcore_to_hf.sh"
    kill_when(back, folder / "hf" / "mcore.partial", "mcore")
    assert not (folder / "hf" / "mcore").exists()
    run_script(back, "mcore")
    compared = verify_hf(folder / "hf" / "mcore", source=model)
    assert compared.verdict is Verdict.SOUND, compared.findings
