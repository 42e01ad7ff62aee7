"""Runs a command and writes what it took of this machine, one JSON line.

    python benchmarks/convert/measure.py NAME RESULTS.jsonl COMMAND...

Host memory of the command with all its processes, ten times a second: anonymous pages and shared
ones (what cannot be taken back), mapped files (what can), and how much less the whole machine had
available; twice a second the first two again with each page counted once, however many processes
share it (`once_`). Memory of the GPUs that CUDA_VISIBLE_DEVICES names (the first, if it is not set)
from nvidia-smi: all of the fullest one, beyond what was in use before, and what it says of the
command's own processes, which holds beside other work. Each Python process adds its own peaks
(`peaks/sitecustomize.py`). Told to end, it waits for the command and writes what there is. Bytes
and seconds.
"""

import json
import os
import signal
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
ONCE = {"Pss_Anon": "once_anonymous", "Pss_Shmem": "once_shared"}
SAMPLES_A_COUNT = 5  # the kernel walks all pages to say what processes share: not every time


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


def _resident(processes: list[int]) -> dict[str, int]:
    """Bytes of processes, by kind."""
    total = dict.fromkeys(KINDS.values(), 0)
    for process in processes:
        try:
            status = _kilobytes(Path(f"/proc/{process}/status").read_text())
        except OSError:
            continue
        for field, kind in KINDS.items():
            total[kind] += status.get(field, 0)
    return total


def _counted_once(processes: list[int]) -> dict[str, int]:
    """Bytes of processes, by kind; a page that several share counts as one."""
    total = dict.fromkeys(ONCE.values(), 0)
    for process in processes:
        try:
            pages = _kilobytes(Path(f"/proc/{process}/smaps_rollup").read_text())
        except OSError:
            continue
        for field, kind in ONCE.items():
            total[kind] += pages.get(field, 0)
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


class _Smi(threading.Thread):
    """The lines that nvidia-smi answers a query with, ten times a second; none where there is none.

    `latest` holds the bytes of the newest line, by all that stands before them; what is no number
    of MiB is 0.
    """

    def __init__(self, query: str, gpus: str) -> None:
        super().__init__(daemon=True)
        self.latest: dict[str, int] = {}
        self._smi: subprocess.Popen[str] | None = None
        words = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        try:
            self._smi = subprocess.Popen(
                [*words, f"--id={gpus}", "--loop-ms=100"], stdout=subprocess.PIPE, text=True
            )
        except OSError:
            return
        self.start()

    def run(self) -> None:
        assert self._smi is not None and self._smi.stdout is not None
        for line in self._smi.stdout:
            key, _, mebibytes = line.strip().rpartition(", ")
            self.latest[key] = int(mebibytes) * 2**20 if mebibytes.isdigit() else 0

    def stop(self) -> None:
        if self._smi is not None:
            self._smi.terminate()


class _Gpus:
    """Bytes in use on GPUs: in all, and by process."""

    def __init__(self) -> None:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
        self._all = _Smi("--query-gpu=index,memory.used", gpus)
        self._apps = _Smi("--query-compute-apps=gpu_uuid,pid,used_memory", gpus)
        time.sleep(1)
        self._before = dict(self._all.latest)
        self.peaks: dict[str, int] = {}

    def sample(self, processes: list[int]) -> dict[str, int]:
        """Bytes beyond those of before on the fullest GPU, and of some processes on all."""
        of_processes, own = 0, {str(process) for process in processes}
        for key, used in list(self._apps.latest.items()):
            if used and key.rpartition(", ")[2] in own:
                of_processes += used
                self.peaks[key] = max(used, self.peaks.get(key, 0))
        more = [used - self._before.get(key, 0) for key, used in list(self._all.latest.items())]
        return {"gpu": max(more, default=0), "gpu_processes": of_processes}

    def stop(self) -> None:
        self._all.stop()
        self._apps.stop()


def _watch(process: "subprocess.Popen[bytes]", gpus: _Gpus) -> tuple[list[dict[str, Any]], float]:
    """Samples until the process ends; and the seconds that it took."""
    before, started = _machine(), time.monotonic()
    samples: list[dict[str, Any]] = []
    once: dict[str, int] = {}
    while process.poll() is None:
        machine = {name: value - before.get(name, 0) for name, value in _machine().items()}
        tree = _tree(process.pid)
        if len(samples) % SAMPLES_A_COUNT == 0:
            once = _counted_once(tree)
            once["once"] = sum(once.values())
        sample = {**_resident(tree), **once, **machine, **gpus.sample(tree)}
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
        signal.signal(signal.SIGTERM, lambda *_: None)  # the command got it too, and ends
        gpus = _Gpus()
        process = subprocess.Popen(command, env=environment)
        samples, seconds = _watch(process, gpus)
        gpus.stop()
        columns = [column for column in samples[0] if column != "second"] if samples else []
        row = {
            "name": name,
            "status": process.returncode,
            "seconds": round(seconds, 1),
            "peak": {column: max(sample[column] for sample in samples) for column in columns},
            "gpu_peaks": sorted(gpus.peaks.values(), reverse=True),
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
