"""Writes the models whose parts are timed: layers.jsonl beside this file.

    PYTHONPATH=.:benchmarks/memory python benchmarks/kernels/models.py

Widths, heads, local experts, tokens and documents cover what ranks of real runs have; GLM-4.5-Air,
which is set aside, is not among them. The most valuable come first: a run may end early.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from design import NOTHING, Setting, row_of

from planner.workload import TunerType

HERE = Path(__file__).parent
MICROBATCHES = 2
LONGEST = 16384
# tokens, documents and whether kernels are traced
TINY = (256, 1, False)  # the host decides; each expert still gets rows
USUAL = [TINY, (8192, 4, True), (2048, 1, True), (16384, 4, True)]
DOCUMENTS = [*USUAL, (8192, 1, True), (8192, 16, True), (4096, 1, True), (512, 1, True)]

BASE = Setting(
    model="", tp=1, pp=1, vpp=1, cp=1, ep=1, etp=1, dp=1, stage="only", chunk_layers=2,
    recompute=NOTHING, micro_batch_size=1, seq_length=LONGEST, documents=1, tuner=TunerType.FULL,
    loss_fusion=True, overlap=False, mtp=0,
)  # fmt: skip


def make(family: str, model: str, packs: list[Any], **sizes: Any) -> dict[str, Any]:
    """A model with its sizes; `config` changes its config.json, `tag` tells it from others."""
    config, tag = sizes.pop("config", {}), sizes.pop("tag", "")
    setting = replace(BASE, model=model, **sizes)
    setting = replace(setting, dp=max(setting.dp, 8 // setting.tp // setting.cp, setting.ep))
    # the microbatches of a rank
    batch = MICROBATCHES * setting.micro_batch_size * setting.dp
    row = row_of(family, setting, global_batch_size=batch)
    names = [f"{name}{value}" for name, value in sizes.items() if name in ("tp", "cp", "ep", "etp")]
    row = replace(
        row, id="-".join([model, *names, *([tag] if tag else [])]), config=row.config | config
    )
    return {"row": asdict(row), "packs": packs}


ONE_DENSE = {"first_k_dense_replace": 1}  # of two layers
MODELS = [
    make("qwen3_moe", "Qwen3-30B-A3B", DOCUMENTS, ep=8),
    make("dense", "Llama-3.1-8B", DOCUMENTS),
    make("deepseek_v3", "Moonlight-16B-A3B", USUAL, ep=8, config=ONE_DENSE),
    make("qwen3_moe", "Qwen3-30B-A3B", USUAL, ep=1, chunk_layers=1),
    make("qwen3_moe", "Qwen3-235B-A22B", USUAL, ep=8, chunk_layers=1),
    make("dense", "Qwen2.5-7B", USUAL, tp=4),
    make("deepseek_v3", "DeepSeek-V3", USUAL[:3], ep=32, tp=4, config=ONE_DENSE),
    make("qwen2_moe", "Qwen1.5-MoE-A2.7B", USUAL, ep=4),
    make("qwen3_moe", "Qwen3-30B-A3B", USUAL, ep=4, tp=2),
    make("qwen2_moe", "Qwen2-57B-A14B", USUAL, ep=8, chunk_layers=1),
    make("dense", "Llama-3.1-8B", USUAL, tp=2, cp=2),
    make("qwen3_moe", "Qwen3-30B-A3B", USUAL, ep=2, chunk_layers=1),
    make("qwen3_moe", "Qwen3-235B-A22B", USUAL, ep=16, tp=4),
    make("qwen3_moe", "Qwen3-30B-A3B", USUAL, ep=8, tp=4, etp=2),
    make("deepseek_v3", "Moonlight-16B-A3B", USUAL, ep=2, tp=2, config=ONE_DENSE),
    make("dense", "Qwen2.5-7B", USUAL, loss_fusion=False, tag="unfused-loss"),
    make("qwen2_moe", "Qwen2-57B-A14B", USUAL, ep=16, tp=4),
    make("qwen3_moe", "Qwen3-30B-A3B", USUAL, ep=8, cp=2),
    make("qwen3_moe", "Qwen3-30B-A3B", USUAL, ep=32),
    make("dense", "Qwen2.5-7B", USUAL, tp=1, tuner=TunerType.LORA, tag="lora"),
    make("qwen3_moe", "Qwen3-30B-A3B", USUAL, ep=8, tuner=TunerType.LORA, tag="lora"),
]  # fmt: skip


def main() -> None:
    """Write the file."""
    text = "".join(json.dumps(model) + "\n" for model in MODELS)
    (HERE / "layers.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
