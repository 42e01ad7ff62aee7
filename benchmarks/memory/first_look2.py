"""Keeps what was predicted of the second lot of fresh ranks, before any of them was measured.

    python benchmarks/memory/first_look2.py

writes first_look2.jsonl beside this file, in bytes, and fails where it is there. Each rank is
predicted at the load of its experts that is asked for, as what they get is not known yet.
"""

import json
from typing import Any

from predict import FOLDER, predict, rows

from measure.verify.row import Row

PAGE = FOLDER / "first_look2.jsonl"


def sizes(row: Row) -> dict[str, int]:
    """Predicted bytes of a row, by the names of `design_errors.MeasuredRank.pairs`."""
    asked: dict[str, Any] = {"expert_tokens": {"mean": row.expert_load, "balanced": 1.0}}
    memory = predict(row, asked).memory
    peak = memory.peak_allocated_at_imbalance
    return {
        "after_build": memory.after_build,
        "steady": memory.steady,
        "peak_allocated": peak,
        "dynamic": peak - memory.steady,
        "peak_reserved": memory.peak_reserved,
        "device_used": memory.device_used - memory.nccl,
    }


def main() -> None:
    """Write first_look2.jsonl, once."""
    with PAGE.open("x", encoding="utf-8") as page:
        for row in (*rows("fresh2.jsonl"), *rows("fused.jsonl")):
            page.write(json.dumps({"id": row.id, **sizes(row)}) + "\n")


if __name__ == "__main__":
    main()
