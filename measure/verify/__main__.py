"""Measures the rows of a file, one after the other, in one process.

    python -m measure.verify ROWS RESULTS [--trace]

Each result is appended to RESULTS when it is there, and rows that are in it already are passed
over: started again after a crash, the command goes on behind the row that crashed. It ends with
status 75 after a row whose memory could not be given back: start it again.
"""

import argparse
import faulthandler
import importlib.metadata
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from measure.verify import machine
from measure.verify.rank import measure, prepare
from measure.verify.row import MOST_LEFT_FOR_NEXT_BYTES, read_rows

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
PACKAGES = ("torch", "transformer-engine", "megatron-core", "mcore-bridge", "ms-swift")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m measure.verify")
    parser.add_argument("rows", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--trace", action="store_true", help="list the largest tensors")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no row after")
    parser.add_argument("--row-seconds", type=float, default=90.0, help="end a row that is stuck")
    arguments = parser.parse_args()
    started = time.monotonic()

    done = _done(arguments.results)
    rows = [row for row in read_rows(arguments.rows) if row.id not in done]
    if rows:
        prepare()
    for row in rows:
        if time.monotonic() - started > arguments.seconds:
            print(f"no time for {row.id}", flush=True)
            break
        _append(arguments.results, {"id": row.id, "started": True})
        faulthandler.dump_traceback_later(arguments.row_seconds, exit=True)
        result = measure(row, traced=arguments.trace)
        faulthandler.cancel_dump_traceback_later()
        _append(arguments.results, result | _circumstances())
        print(_line(result), flush=True)
        if not result["left"] or result["left"]["allocated"] > MOST_LEFT_FOR_NEXT_BYTES:
            sys.exit(TRY_AGAIN)


def _done(results: Path) -> set[str]:
    """The rows that were started before, also those that ended the process."""
    if not results.exists():
        return set()
    return {json.loads(line)["id"] for line in results.read_text("utf-8").splitlines()}


def _append(results: Path, result: dict[str, Any]) -> None:
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def _circumstances() -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(),
        **machine.host(),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(result: dict[str, Any]) -> str:
    """A result for those who watch: GiB."""
    if not result["ok"]:
        return f"{result['id']} FAILED {result['error'][:300]}"
    sizes = ("steady", "peak_allocated", "peak_reserved", "device_used")
    numbers = " ".join(f"{name} {result[name] / 2**30:.2f}" for name in sizes)
    left = result["left"]["allocated"] / 2**20 if result["left"] else float("nan")
    return (
        f"{result['id']} {result['parameters']} {numbers} {result['compute_seconds']:.2f} s, "
        f"row {result['row_seconds']} s, left {left:.1f} MiB"
    )


if __name__ == "__main__":
    main()
