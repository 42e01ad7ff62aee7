"""Rows that repeat ranks of real `megatron sft` runs on two GPUs, to hold the measuring itself.

    python benchmarks/memory/twins.py

writes twins.jsonl beside this file; the real runs are in megatron_sft_2xh100.jsonl, whose tags are
the names here.
"""

from dataclasses import replace
from pathlib import Path

from design import FULL, Setting, row_of

from measure.verify.row import Row
from planner.layout import Recompute
from planner.workload import TunerType

PAGE = Path(__file__).parent / "twins.jsonl"
CORE_ATTENTION = Recompute(granularity="selective", modules=("core_attn",))
BASE = Setting(
    model="Qwen3-30B-A3B", tp=1, pp=1, vpp=1, cp=1, ep=1, etp=1, dp=2, stage="only",
    chunk_layers=4, recompute=CORE_ATTENTION, micro_batch_size=1, seq_length=4096, documents=1,
    tuner=TunerType.FULL, loss_fusion=True, overlap=False, mtp=0,
)  # fmt: skip
TWINS: dict[str, tuple[Setting, int]] = {  # setting, global batch size
    "ep2_sel_4k": (replace(BASE, ep=2), 4),
    "tp2ep2_sel_8k": (replace(BASE, tp=2, ep=2, dp=1, seq_length=8192), 4),
    "pp2_full_4k": (replace(BASE, pp=2, dp=1, stage="last", chunk_layers=2, recompute=FULL), 8),
}


def rows() -> list[Row]:
    """One rank of each run."""
    return [
        replace(row_of("qwen3_moe", setting, global_batch_size), id=f"run-{tag}")
        for tag, (setting, global_batch_size) in TWINS.items()
    ]


def main() -> None:
    """Write twins.jsonl."""
    PAGE.write_text("".join(row.to_json() + "\n" for row in rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
