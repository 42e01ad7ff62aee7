"""Real `megatron sft` runs of two ranks that are saved and resumed.

    python benchmarks/memory/save.py

writes save.jsonl beside this file; `save_run.py` runs it on a GPU. Widths are those of
Qwen3-30B-A3B.
"""

from dataclasses import replace
from pathlib import Path

from sft import BASE, Run, rows_of, write_rows

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


if __name__ == "__main__":
    write_rows(PAGE, rows_of(RUNS, "save"))
