"""Real `megatron sft` runs of two ranks that are saved and resumed.

    python benchmarks/memory/save.py

writes save.jsonl beside this file; `save_run.py` runs it on a GPU. Widths are those of
Qwen3-30B-A3B.
"""

from dataclasses import replace
from pathlib import Path

from design import row_of
from sft import BASE, Run

from measure.verify.row import Row
from planner.workload import TunerType

PAGE = Path(__file__).parent / "save.jsonl"
TWO_LAYERS = replace(BASE, chunk_layers=2)
RUNS = {
    "ep2": Run(setting=TWO_LAYERS, global_batch_size=4, steps=2),
    "lora_ep2": Run(
        setting=replace(TWO_LAYERS, tuner=TunerType.LORA, overlap=False),
        global_batch_size=4,
        steps=2,
    ),
    "pp2": Run(
        setting=replace(TWO_LAYERS, pp=2, ep=1, dp=1, chunk_layers=1), global_batch_size=8, steps=2
    ),
}


def rows() -> list[Row]:
    """Every run as its first rank."""
    return [
        replace(
            row_of("qwen3_moe", run.setting, run.global_batch_size),
            id=f"save-{name}",
            steps=run.steps,
        )
        for name, run in RUNS.items()
    ]


def main() -> None:
    """Write save.jsonl."""
    PAGE.write_text("".join(row.to_json() + "\n" for row in rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
