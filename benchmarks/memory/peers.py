"""Asks other estimators for the measured ranks.

    python benchmarks/memory/peers.py PEER CHECKOUT COMMIT

asks one of them, of which CHECKOUT is a copy at COMMIT, and puts what it said in peers.jsonl in the
place of what it said before. `peer_adapters.py` says what must be importable besides, and
`peer_errors.py` compares.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peer_adapters import Job, ask
from peer_errors import FILE, PEERS, answers
from predict import design, flags_of, model_of, recompute_of
from report import model_of as model_of_rank
from report import recompute_of as recompute_of_rank
from report import rows

from planner.model_spec import MultiLatentAttention

LONGEST_REASON = 160


def features(job: Job) -> Iterator[str]:
    """What of a job not every tool has words for."""
    if job.lora:
        yield "LoRA"
    if job.expert_load != 1.0:
        yield "hot experts"
    if job.mtp_num_layers:
        yield "MTP"
    if job.cp > 1:
        yield "context parallelism"
    if job.vpp > 1 and job.pp == 2:
        yield "virtual stages of two stages"
    if job.stage > 0:
        yield "a later stage"
    if isinstance(job.model.attention, MultiLatentAttention):
        yield "MLA"
    if job.recompute.granularity == "selective":
        yield from (f"recomputation of {module}" for module in job.recompute.modules)
    else:
        yield "full recomputation" if job.recompute.granularity == "full" else "no recomputation"


def jobs() -> Iterator[Job]:
    """All measured ranks: those of the design, and those of one_rank_h100.jsonl."""
    for row in design():
        flags = flags_of(row)
        size = {name: int(flags.get(f"{name}_parallel_size", 1)) for name in _SIZES.values()}
        yield Job(
            id=row.id,
            model=model_of(row),
            world_size=row.world_size,
            rank=row.rank,
            **{short: size[name] for short, name in _SIZES.items()},
            seq_length=int(flags["max_length"]),
            micro_batch_size=int(flags["micro_batch_size"]),
            global_batch_size=int(flags["global_batch_size"]),
            recompute=recompute_of(flags),
            lora=flags["tuner_type"] == "lora",
            mtp_num_layers=int(flags.get("mtp_num_layers", 0)),
            fused_loss=flags["cross_entropy_loss_fusion"] == "true",
            expert_load=row.expert_load,
        )
    for rank in rows("one_rank_h100.jsonl"):
        yield Job(
            id=rank["tag"],
            model=model_of_rank(rank),
            world_size=rank["world"],
            rank=rank["rank"],
            **{name: rank[name] for name in ("tp", "pp", "cp", "ep", "etp")},
            vpp=1,
            seq_length=rank["seq"],
            micro_batch_size=rank["mbs"],
            global_batch_size=rank["gbs"],
            recompute=recompute_of_rank(rank),
            lora=False,
            mtp_num_layers=0,
            fused_loss=True,
            expert_load=1.0,
        )


_SIZES = {
    "tp": "tensor_model",
    "pp": "pipeline_model",
    "vpp": "virtual_pipeline_model",
    "cp": "context",
    "ep": "expert_model",
    "etp": "expert_tensor",
}


def questions(name: str, checkout: Path, commit: str) -> Iterator[dict[str, Any]]:
    """What a tool says of every job: bytes, or why it says nothing."""
    for job in jobs():
        left_out = [feature for feature in features(job) if feature in PEERS[name].lacks]
        answer = {"row": job.id, "peer": name, "commit": commit, "left_out": left_out}
        try:
            if job.lora:
                raise NotImplementedError("LoRA")
            yield answer | {"predicted": ask(name, job, checkout), "refused": None}
        except Exception as error:  # whatever a tool raises is its answer
            reason = f"{type(error).__name__}: {error}"[:LONGEST_REASON]
            yield answer | {"predicted": None, "refused": reason}


def main(name: str, checkout: str, commit: str) -> None:
    """Ask one tool and keep what it said."""
    kept = [answer for answer in answers() if answer["peer"] != name] if FILE.exists() else []
    lines = [json.dumps(answer) for answer in [*kept, *questions(name, Path(checkout), commit)]]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
