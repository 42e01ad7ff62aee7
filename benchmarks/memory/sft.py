"""Real `megatron sft` runs of two ranks whose memory is read step by step.

    python benchmarks/memory/sft.py

writes sft.jsonl beside this file; `sft_run.py` runs it on a GPU. Widths are those of Qwen3-30B-A3B.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from design import FULL, NOTHING, Setting, row_of

from measure.verify.row import Row
from planner.layout import Recompute
from planner.workload import TunerType

PAGE = Path(__file__).parent / "sft.jsonl"
BASE = Setting(
    model="Qwen3-30B-A3B", tp=1, pp=1, vpp=1, cp=1, ep=2, etp=1, dp=2, stage="only",
    chunk_layers=3, recompute=NOTHING, micro_batch_size=1, seq_length=4096, documents=4,
    tuner=TunerType.FULL, loss_fusion=True, overlap=True, mtp=0,
)  # fmt: skip


def _selective(module: str) -> Recompute:
    return Recompute(granularity="selective", modules=(module,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Settings of a run, packs of a step, and steps."""

    setting: Setting
    global_batch_size: int
    steps: int = 6


# The most wanted first: what does not fit into the time is left out. Two ranks of the long run and
# two of any other fit into 139 GiB together.
RUNS = {
    "cp2_none_8k": Run(setting=replace(BASE, cp=2, dp=1, seq_length=8192), global_batch_size=4),
    "lora_none_4k": Run(
        setting=replace(BASE, tuner=TunerType.LORA, overlap=False, chunk_layers=4),
        global_batch_size=4,
    ),
    "ep2_moeact_4k_long": Run(
        setting=replace(BASE, chunk_layers=2, recompute=_selective("moe_act")),
        global_batch_size=4,
        steps=50,
    ),
    "tp2_coreattn_4k": Run(
        setting=replace(
            BASE, tp=2, dp=1, micro_batch_size=2, recompute=_selective("core_attn")
        ),
        global_batch_size=4,
    ),
    "pp2_coreattn_4k": Run(
        setting=replace(
            BASE, pp=2, ep=1, dp=1, chunk_layers=2, recompute=_selective("core_attn")
        ),
        global_batch_size=8,
    ),
    "ep2_full_4k_mbs2": Run(
        setting=replace(BASE, chunk_layers=2, micro_batch_size=2, recompute=FULL),
        global_batch_size=8,
    ),
}  # fmt: skip


def rows_of(runs: dict[str, Run], kind: str) -> list[Row]:
    """Every run as its first rank."""
    return [
        replace(
            row_of("qwen3_moe", run.setting, run.global_batch_size),
            id=f"{kind}-{tag}",
            steps=run.steps,
        )
        for tag, run in runs.items()
    ]


def write_rows(page: Path, rows: list[Row]) -> None:
    """Write rows, a line each."""
    page.write_text("".join(row.to_json() + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write_rows(PAGE, rows_of(RUNS, "sft"))
