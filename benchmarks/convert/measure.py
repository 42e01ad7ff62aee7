"""Runs a command and writes what it took of this machine, one JSON line.

    python benchmarks/convert/measure.py NAME RESULTS.jsonl COMMAND...

Host memory of the command with all its processes, ten times a second: anonymous pages and shared
ones (what cannot be taken back), mapped files (what can), and how much less the whole machine had
available. Memory of the GPU from nvidia-smi, beyond what was in use before. Each Python process
adds its own peaks (`peaks/sitecustomize.py`). Bytes and seconds.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

INTERVAL_SECONDS = 0.1
PEAKS = Path(__file__).parent / "peaks"
KINDS = {"RssAnon": "anonymous", "RssShmem": "shared", "RssFile": "mapped_files"}


def _children() -> dict[int, list[int]]:
    """Process ids by the process that started them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    return children


def _tree(root: int) -> list[int]:
    """A process and all that it started."""
    children, found, todo = _children(), [], [root]
    while todo:
        process = todo.pop()
        found.append(process)
        todo += children.get(process, [])
    return found


def _kilobytes(text: str) -> dict[str, int]:
    """The `Name: N kB` lines of a file of /proc, in bytes."""
    lines = (line.partition(":") for line in text.splitlines() if line.endswith("kB"))
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in lines}


def _resident(root: int) -> dict[str, int]:
    """Bytes of a process and all that it started, by kind."""
    total = dict.fromkeys(KINDS.values(), 0)
    for process in _tree(root):
        try:
            status = _kilobytes(Path(f"/proc/{process}/status").read_text())
        except OSError:
            continue
        for field, kind in KINDS.items():
            total[kind] += status.get(field, 0)
    return total


def _machine() -> dict[str, int]:
    """What the machine as a whole has in use that it cannot take back, and its control group."""
    info = _kilobytes(Path("/proc/meminfo").read_text())
    used = {"machine_unavailable": info["MemTotal"] - info["MemAvailable"]}
    group = Path("/sys/fs/cgroup/memory.stat")
    if group.exists():
        stat = dict(line.split() for line in group.read_text().splitlines())
        used["group_anonymous"] = int(stat["anon"])
        used["group_shared"] = int(stat.get("shmem", 0))
        used["group_kernel"] = int(stat.get("kernel", 0))
    return used


class _Gpu(threading.Thread):
    """Bytes in use on the first GPU, as nvidia-smi says; 0 where it does not run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.used = 0
        self._smi: subprocess.Popen[str] | None = None
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        try:
            words = [*query, "--id=0", "--loop-ms=100"]
            self._smi = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        except OSError:
            return
        self.start()
        time.sleep(1)

    def run(self) -> None:
        assert self._smi is not None and self._smi.stdout is not None
        for line in self._smi.stdout:
            self.used = int(line) * 2**20

    def stop(self) -> None:
        if self._smi is not None:
            self._smi.terminate()


def _watch(process: "subprocess.Popen[bytes]", gpu: _Gpu) -> tuple[list[dict[str, Any]], float]:
    """Samples until the process ends; and the seconds that it took."""
    before, gpu_before, started = _machine(), gpu.used, time.monotonic()
    samples = []
    while process.poll() is None:
        machine = {name: value - before[name] for name, value in _machine().items()}
        sample = {**_resident(process.pid), **machine, "gpu": gpu.used - gpu_before}
        sample["fixed"] = sample["anonymous"] + sample["shared"]
        samples.append({"second": round(time.monotonic() - started, 1), **sample})
        time.sleep(INTERVAL_SECONDS)
    return samples, time.monotonic() - started


def _processes(folder: Path) -> list[dict[str, Any]]:
    """What each Python process wrote about itself, the largest first."""
    peaks = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(peaks, key=lambda peak: -peak["host_resident"])[:4]


def main(name: str, results: str, command: list[str]) -> int:
    """Run the command; gives its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join(filter(None, [str(PEAKS), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "MEASURE_PEAKS": folder}
        gpu = _Gpu()
        process = subprocess.Popen(command, env=environment)
        samples, seconds = _watch(process, gpu)
        gpu.stop()
        columns = [column for column in samples[0] if column != "second"] if samples else []
        row = {
            "name": name,
            "status": process.returncode,
            "seconds": round(seconds, 1),
            "peak": {column: max(sample[column] for sample in samples) for column in columns},
            "processes": _processes(Path(folder)),
            # a line a second, in MiB: which part of the command the peaks belong to
            "columns": ["second", *columns],
            "samples": [
                [sample["second"], *(sample[column] >> 20 for column in columns)]
                for sample in samples[::10]
            ],
        }
    with Path(results).open("a") as file:
        file.write(json.dumps(row) + "\n")
    return int(process.returncode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
