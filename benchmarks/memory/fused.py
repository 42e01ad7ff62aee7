"""Rows of the design with fused weight gradients, to hold what they save and what they keep.

    python benchmarks/memory/fused.py

writes fused.jsonl beside this file. But for `gradient_accumulation_fusion` each is the row of its
name; `measure.verify` stands in for apex, which the machine does not have.
"""

from dataclasses import replace
from pathlib import Path

from predict import design

from measure.verify.row import Row

PAGE = Path(__file__).parent / "fused.jsonl"
FLAG = "--gradient_accumulation_fusion"
IDS = ("qwen3_moe-00", "dense-42", "deepseek_v3-68", "qwen2_moe-41")


def fused(row: Row) -> Row:
    """The row with fused weight gradients."""
    words = list(row.argv)
    words[words.index(FLAG) + 1] = "true"
    return replace(row, id=f"{row.id}-fused", argv=words)


def main() -> None:
    """Write fused.jsonl."""
    rows = {row.id: row for row in design()}
    page = "".join(fused(rows[name]).to_json() + "\n" for name in IDS)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
