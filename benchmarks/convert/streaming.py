"""Measures how fast `moe-convert verify` reads a large checkpoint, and in how much memory.

    python benchmarks/convert/streaming.py FOLDER > benchmarks/convert/streaming.json

Writes a checkpoint of 6.2 GB twice into FOLDER (Qwen3-MoE at the widths of Qwen3-30B-A3B, 4
layers), drops it from the page cache before each reading, and compares with reading the same files
and doing nothing else. Each is done three times, in turn, and the median is taken. Peak memory is
that of the whole process (VmHWM).
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from convert.expected import expected_shapes
from convert.values import to_bfloat16
from planner.model_config import model_spec_from_config
from planner.model_files import MODELS_FOLDER

LAYERS = 4
DEVIATION = 0.03
PLAIN_READ_BYTES = 4 * 2**20
REPEATS = 3
# The command, which at its end writes the most memory that it ever had, in KiB.
CHILD = """
import atexit, re, sys
status = open("/proc/self/status")
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1], file=sys.stderr))
from convert.cli import main; main()
"""


def write(folder: Path) -> None:
    """Writes the checkpoint, a file a layer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((MODELS_FOLDER / "Qwen3-30B-A3B.json").read_text("utf-8"))
    config["num_hidden_layers"] = LAYERS
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {}}}))
    spec = model_spec_from_config(config, name="large", origin=str(folder))
    shapes = expected_shapes(spec)
    assert shapes is not None
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        part = name.split(".")[2] if ".layers." in name else "ends"
        files.setdefault(f"model-{part}.safetensors", {})[name] = shape
    for file, tensors in files.items():
        _write_file(folder / file, tensors)
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)


def _write_file(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    rng = np.random.default_rng(len(path.name))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            numbers = rng.standard_normal(shape, dtype=np.float32) * np.float32(DEVIATION)
            file.write(to_bfloat16(numbers).tobytes())


def drop_from_cache(*folders: Path) -> None:
    """Writes files out and takes them from the page cache."""
    for path in (path for folder in folders for path in folder.glob("*.safetensors")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_read(*folders: Path) -> float:
    """Seconds to read all files and do nothing with them."""
    started, buffer = time.perf_counter(), bytearray(PLAIN_READ_BYTES)
    for path in (path for folder in folders for path in folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - started


def verify(checkpoint: Path, *words: str) -> dict[str, Any]:
    """What a check takes as a process of its own: seconds of the check, and peak memory."""
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, "verify", str(checkpoint), *words, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    verification = json.loads(ran.stdout)["verification"]
    return {
        "verdict": verification["verdict"],
        "bytes_read": verification["bytes_read"],
        "seconds": seconds,
        "peak_resident_bytes": int(ran.stderr) * 1024,
    }


def main(folder: Path) -> dict[str, Any]:
    """All measurements."""
    checkpoint, source = folder / "checkpoint", folder / "source"
    for each in (checkpoint, source):
        if not each.exists():
            write(each)
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    rows = []
    for name, words, folders in (
        ("alone", [], [checkpoint]),
        ("beside the source", ["--source", str(source)], [checkpoint, source]),
    ):
        plain, checks = [], []
        for _ in range(REPEATS):  # in turn: others may use the disk too
            drop_from_cache(checkpoint, source)
            plain.append(plain_read(*folders))
            drop_from_cache(checkpoint, source)
            checks.append(verify(checkpoint, *words))
        seconds = [check["seconds"] for check in checks]
        read = checks[0]["bytes_read"]
        rows.append(
            {
                "name": name,
                "verdict": checks[0]["verdict"],
                "bytes_read": read,
                "seconds": round(median(seconds), 2),
                "bytes_per_second": round(read / median(seconds)),
                "plain_bytes_per_second": round(len(folders) * size / median(plain)),
                "peak_resident_bytes": max(check["peak_resident_bytes"] for check in checks),
                "all_seconds": [round(each, 1) for each in seconds],
                "all_plain_seconds": [round(each, 1) for each in plain],
            }
        )
    return {"checkpoint_bytes": size, "processors": os.cpu_count(), "rows": rows}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1])), indent=1))
