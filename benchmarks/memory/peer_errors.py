"""Errors of other estimators on the measured ranks, from what they said in peers.jsonl."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
FILE = FOLDER / "peers.jsonl"

_COMMON = frozenset({"LoRA", "hot experts"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A tool: its repository, and which features of a job it has no words for.

    Source: the tools' own code, and what the formulas of the first two say of themselves.
    """

    repository: str
    lacks: frozenset[str]


_RECOMPUTED = ("core_attn", "layernorm", "mla_up_proj", "mlp", "moe", "moe_act", "shared_experts")


def _recomputation(*modules: str) -> frozenset[str]:
    return frozenset(f"recomputation of {module}" for module in modules)


_FORMULA = _COMMON | _recomputation(*_RECOMPUTED[1:]) | {"full recomputation", "a later stage"}

PEERS = {
    "Megatron-LM": Peer(
        repository="NVIDIA/Megatron-LM",
        lacks=_FORMULA | {"context parallelism"},
    ),
    "Megatron-Bridge": Peer(
        repository="NVIDIA-NeMo/Megatron-Bridge",
        lacks=_FORMULA | {"no recomputation", "MLA"},
    ),
    "mbridge": Peer(
        repository="ISEEKYAN/mbridge",
        lacks=_COMMON | _recomputation("mla_up_proj", "shared_experts") | {"MTP"},
    ),
    "SimuMax": Peer(
        repository="MooreThreads/SimuMax",
        lacks=_COMMON
        | _recomputation("core_attn", "shared_experts")
        | {"MTP", "context parallelism", "virtual stages of two stages"},
    ),
}


def answers() -> list[dict[str, Any]]:
    """What the tools said."""
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def measured() -> dict[str, float]:
    """Peak allocated bytes by row."""
    found: dict[str, float] = {}
    for line in (FOLDER / "design_h100.jsonl").read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        found[result["id"]] = result["peak_allocated"]
    for line in (FOLDER / "one_rank_h100.jsonl").read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        found[result["tag"]] = result["peak_allocated_gib"] * 2**30
    return found


def _percentiles(errors: list[float]) -> str:
    if not errors:
        return "none"
    ordered = sorted(errors)
    middle, high = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.9))
    return f"{middle:.1%}, {high:.1%} ({len(ordered)})"


HEAD = """
## Other estimators

What public tools predict of the peak allocated on {number} measured ranks (`design.jsonl` and
`one_rank_h100.jsonl`): median and 90th percentile of the error, and how many ranks it is of. What a
tool has no words for is left out of the question (experts that get more than their share, modules
that it cannot recompute, which stage it is); the second column has the ranks where nothing was. No
answer: LoRA, or the tool refused. `peers.jsonl` has every answer, `peers.py` asked.
"""


def peers_table() -> list[str]:
    """The errors of the tools, as lines of the page."""
    truth, said = measured(), answers()
    lines = [
        HEAD.format(number=len(truth)),
        "| tool | commit | all answers: p50, p90 (ranks) | nothing left out | no answer |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, peer in PEERS.items():
        own = [answer for answer in said if answer["peer"] == name]
        answered = [answer for answer in own if answer["predicted"] is not None]
        errors = [abs(answer["predicted"] / truth[answer["row"]] - 1) for answer in answered]
        whole = [
            error for answer, error in zip(answered, errors, strict=True) if not answer["left_out"]
        ]
        lines.append(
            f"| {peer.repository} | {own[0]['commit'][:9]} | {_percentiles(errors)} | "
            f"{_percentiles(whole)} | {len(own) - len(answered)} |"
        )
    return lines
