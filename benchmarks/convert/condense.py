"""Makes a short row of each long one that measure.py wrote, for report.py.

    python benchmarks/convert/condense.py GPU MEASURED.jsonl RUNS > benchmarks/convert/later.jsonl

RUNS holds the folders of the runs by name; measure.py's names start with them. Their run.json, from
which report.py predicts anew, are copied into `runs` here, without the paths of the machine. `logs`
beside RUNS holds what the commands printed, and what `moe-convert verify --json` said of their
results, by the same names.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

GIB = 2**30
RUNS = Path(__file__).parent / "runs"
TO_MCORE, TO_HF, TRAIN = "convert_hf_to_mcore.sh", "convert_mcore_to_hf.sh", "train.sh"
MEGATRON, SWIFT = "megatron export", "swift export"

# What each measured command was: script, kind and direction of convert.ways.
SCRIPTS = {
    "pair-there": (TO_MCORE, MEGATRON, "to_mcore"),
    "pair-back": (TO_HF, MEGATRON, "to_hf"),
    "lora-there": (TO_MCORE, MEGATRON, "to_mcore"),
    "lora-train": (TRAIN, "training", ""),
    "lora-merged": (TO_HF, MEGATRON, "to_hf"),
    "lora-adapter": (f"ADAPTER=1 {TO_HF}", MEGATRON, "to_hf"),
    "pairlora-train": (TRAIN, "training", ""),
    "pairlora-merged": (TO_HF, MEGATRON, "to_hf"),
    "one-logits": (f"TEST_CONVERT_PRECISION=1 {TO_MCORE}", MEGATRON, "to_mcore"),
    "one-swift-back": (f"CONVERTER=swift SMOKE=1 {TO_HF}", SWIFT, "to_hf"),
}


def _largest(processes: list[dict[str, Any]], name: str) -> float | None:
    """GiB of the process that had most, None where none had any."""
    found = [process[name] for process in processes if process[name]]
    return round(max(found) / GIB, 2) if found else None


def _verified(path: Path) -> str:
    """The verdict about what a command wrote, with what was counted; "" where none was asked."""
    if not path.exists() or not path.stat().st_size:
        return ""
    found = json.loads(path.read_text("utf-8"))["verification"]
    counted = [check for check in found["checks"] if " tensors " in check or "parameters" in check]
    said = [finding["message"] for finding in found["findings"][:2]]
    return "; ".join([found["verdict"], *counted, *said])


def _mean_difference(path: Path) -> float | None:
    """How far the logits of both sides are apart, as ms-swift printed it."""
    text = path.read_text("utf-8", errors="replace") if path.exists() else ""
    found = re.findall(r"^mean_diff: ([^,\s]+),", text, re.MULTILINE)
    return float(found[-1]) if found else None


def condensed(row: dict[str, Any], gpu: str, logs: Path) -> dict[str, Any]:
    """What the page shows of a measured command."""
    script, kind, direction = SCRIPTS[row["name"]]
    peak = {name: round(size / GIB, 2) for name, size in row["peak"].items()}
    return {
        "name": row["name"],
        "gpu": gpu,
        "run": row["name"].partition("-")[0],
        "script": script,
        "kind": kind,
        "direction": direction,
        "status": row["status"],
        "seconds": row["seconds"],
        # None where nvidia-smi does not say which process has what: the rest of the GPU is not ours
        "gpu_used_gib": round(max(row["gpu_peaks"]) / GIB, 2) if row["gpu_peaks"] else None,
        "gpu_used_by_rank_gib": [round(size / GIB, 2) for size in row["gpu_peaks"]],
        "gpu_reserved_gib": _largest(row["processes"], "gpu_reserved"),
        "gpu_allocated_gib": _largest(row["processes"], "gpu_allocated"),
        "host_gib": peak["once"],
        "host_anonymous_gib": peak["once_anonymous"],
        "host_shared_gib": peak["once_shared"],
        "mapped_files_gib": peak["mapped_files"],
        "processes_anonymous_gib": peak["anonymous"],
        "verified": _verified(logs / f"verify-{row['name']}.json"),
        "mean_difference_of_logits": _mean_difference(logs / f"{row['name']}.txt"),
    }


def without_paths(run: dict[str, Any]) -> dict[str, Any]:
    """A run.json that says nothing of where it was planned."""
    site = {**run["site"], "model_path": "MODEL", "dataset": ["DATA"], "workspace": ""}
    return {**run, "site": site, "model": {**run["model"], "origin": "MODEL"}}


def main(gpu: str, measured: Path, runs: Path) -> None:
    """Print the short rows, and keep the runs that they are of."""
    lines = measured.read_text("utf-8").splitlines()
    rows = [condensed(json.loads(line), gpu, runs.parent / "logs") for line in lines]
    for row in rows:
        print(json.dumps(row))
    RUNS.mkdir(exist_ok=True)
    for name in {row["run"] for row in rows}:
        run = json.loads((runs / name / "run.json").read_text("utf-8"))
        (RUNS / f"{name}.json").write_text(json.dumps(without_paths(run)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
