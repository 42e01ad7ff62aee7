"""Writes what `session.py` does, in its order: jobs.jsonl beside this file.

    PYTHONPATH=.:benchmarks/memory python benchmarks/kernels/jobs.py

The first model comes again in the middle and at the end: the host is not the same at other times.
Packs of 256 tokens show the host; longer ones the GPU.
"""

import json
from pathlib import Path
from typing import Any

from models import ONE_DENSE, make
from recompute_choices import AGAIN, FULL, NOTHING

from planner.workload import TunerType

HERE = Path(__file__).parent
HOST = (256, 1, False)  # tokens, documents, whether kernels are traced
SHORT = [HOST, (2048, 1, True), (8192, 4, True)]
TWO_GPUS = [HOST, (4096, 1, True), (8192, 4, True)]  # packs of benchmarks/steptime/two_gpus.jsonl
QWEN, MOONLIGHT = ("qwen3_moe", "Qwen3-30B-A3B"), ("deepseek_v3", "Moonlight-16B-A3B")
LLAMA, QWEN_DENSE = ("dense", "Llama-3.1-8B"), ("dense", "Qwen2.5-7B")
SHARED = ("qwen2_moe", "Qwen1.5-MoE-A2.7B")

SPARSE = ["core_attn", "layernorm", "moe_act", "moe", FULL]
LATENT = ["mlp", "mla_up_proj", "shared_experts"]
ROUNDS = 20


def _layers(name: str, model: tuple[str, str], packs: list[Any], **sizes: Any) -> dict[str, Any]:
    made = make(*model, packs, **sizes)
    made["row"]["id"] = name
    return {"kind": "layers", "name": name, **made}


def _recompute(
    name: str, model: tuple[str, str], choices: list[str], *, beside: bool = False, **sizes: Any
) -> dict[str, Any]:
    """`beside`: shared experts run beside the exchange, and are not recomputed by themselves."""
    row = make(*model, [], **sizes)["row"]
    row["id"] = name
    words = row["argv"]
    if "--moe_shared_expert_overlap" in words:
        words[words.index("--moe_shared_expert_overlap") + 1] = str(beside).lower()
    rounds = [(HOST[0], [NOTHING, AGAIN, *choices], ROUNDS)]
    return {"kind": "recompute", "name": f"recompute-{name}", "row": row, "rounds": rounds}


LORA = {"tuner": TunerType.LORA}
JOBS = [
    _layers("Qwen3-30B-A3B-ep8-begin", QWEN, TWO_GPUS, ep=8),
    _recompute("Moonlight-16B-A3B-ep8", MOONLIGHT, SPARSE + LATENT, ep=8, config=ONE_DENSE),
    _layers("Qwen3-30B-A3B-ep8-lora", QWEN, SHORT, ep=8, **LORA),
    _layers("Qwen2.5-7B-lora", QWEN_DENSE, SHORT, **LORA),
    _recompute("Qwen3-30B-A3B-ep8", QWEN, SPARSE, ep=8),
    _layers("Moonlight-16B-A3B-ep8", MOONLIGHT, TWO_GPUS, ep=8, config=ONE_DENSE),
    _layers("Qwen3-30B-A3B-ep2", QWEN, TWO_GPUS, ep=2, chunk_layers=1),
    _layers("Llama-3.1-8B", LLAMA, SHORT),
    _layers("Qwen3-30B-A3B-ep8-middle", QWEN, [HOST, (4096, 1, False)], ep=8),
    _recompute(
        "Moonlight-16B-A3B-tp2-ep8",
        MOONLIGHT,
        ["core_attn", "layernorm", "moe_act", "layernorm moe_act", "mlp", "mla_up_proj", FULL],
        beside=True,
        tp=2,
        ep=8,
        config=ONE_DENSE,
    ),
    _layers("Moonlight-16B-A3B-ep8-lora", MOONLIGHT, SHORT, ep=8, config=ONE_DENSE, **LORA),
    _layers("Qwen3-30B-A3B-tp2-ep8-lora", QWEN, SHORT[:2], ep=8, tp=2, **LORA),
    _layers("Qwen3-30B-A3B-tp2-ep2", QWEN, TWO_GPUS[:2], ep=2, tp=2, chunk_layers=1),
    _layers("Qwen3-30B-A3B-cp2-ep8", QWEN, TWO_GPUS[:2], ep=8, cp=2),
    _recompute("Qwen1.5-MoE-A2.7B-ep4", SHARED, [*SPARSE, "shared_experts"], ep=4),
    _layers("Qwen3-30B-A3B-ep2-lora", QWEN, SHORT[:2], ep=2, chunk_layers=1, **LORA),
    _recompute("Llama-3.1-8B", LLAMA, ["core_attn", "mlp", FULL]),
    _layers("Qwen3-30B-A3B-ep8-end", QWEN, [HOST, (4096, 1, False)], ep=8),
]


def main() -> None:
    """Write the file."""
    text = "".join(json.dumps(job) + "\n" for job in JOBS)
    (HERE / "jobs.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
