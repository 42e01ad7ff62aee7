"""Compares what the planner predicts of ranks with what was measured on them.

    make pages

writes README.md beside this file, and planner/data/confidence.yaml, which `plan --json` shows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nvlink_page
import one_rank
import plan_verify_page
import save_page
import two_gpus_report
from design_errors import design_page, first_look2, nine_of_ten
from nvlink_rows import over_sockets
from peer_errors import peers_table
from sft_rows import RealRank, real_ranks

from planner.evaluate import Evaluator
from planner.layout import NO_RECOMPUTE, Layout, Recompute
from planner.model_files import resolve_model
from planner.model_spec import GroupedQueryAttention, ModelSpec
from planner.planning import CONFIDENCE_FILE
from planner.problem import Problem
from planner.recipe import load_recipe
from planner.split import even_split
from planner.stack import load_stack
from planner.topology_files import load_topology
from planner.units import GIB
from planner.workload import TunerType, Workload

FOLDER = Path(__file__).parent
PAGE = FOLDER / "README.md"
STACK = "gpu-kit-2026-11"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that was predicted and measured: its name here and its path in a plan's JSON."""

    title: str
    path: str
    decimals: int


QUANTITIES = {
    "after_build": Quantity("after building, GiB", "stages.memory_bytes.after_build", 2),
    "steady": Quantity("between steps, GiB", "stages.memory_bytes.steady", 2),
    "peak_allocated": Quantity("peak allocated, GiB", "stages.memory_bytes.peak_allocated", 2),
    "peak_reserved": Quantity("peak reserved, GiB", "stages.memory_bytes.peak_reserved", 2),
    "device_used": Quantity("device use, GiB", "stages.memory_bytes.device_used", 2),
}


@dataclass(frozen=True, slots=True)
class Rank:
    """One measured rank; both dictionaries have the quantities that were measured of it."""

    tag: str
    layout: str
    parameters: int
    measured_parameters: int | None
    predicted: dict[str, float]
    measured: dict[str, float]

    def error(self, quantity: str) -> float:
        """Predicted over measured, less one."""
        return self.predicted[quantity] / self.measured[quantity] - 1


def model_of(row: Row) -> ModelSpec:
    """The widths of a row's family with as many layers as it has."""
    names = {"qwen3_moe": "Qwen3-30B-A3B", "dense": "Qwen2.5-7B", "mla": "DeepSeek-V3"}
    model = resolve_model(names[row.get("family", "qwen3_moe")])
    if isinstance(model.attention, GroupedQueryAttention):  # as the measured ranks were built
        attention = replace(model.attention, qkv_bias=False, qk_layernorm="head")
        model = replace(model, attention=attention)
    layers = row["layers"]
    return replace(model, num_layers=layers, moe_layers=(model.is_moe,) * layers)


def recompute_of(row: Row) -> Recompute:
    """What a row recomputes: nothing, some modules (of core attention when not said) or all."""
    modules = tuple((row.get("recompute_modules") or "core_attn").split(","))
    return {
        "none": NO_RECOMPUTE,
        "selective": Recompute(granularity="selective", modules=modules),
        "full": Recompute(granularity="full", method="uniform", num_layers=1),
    }[row["recompute"]]


def rank_of(row: Row, measured: dict[str, float], *, packed: bool = True) -> Rank:
    """The prediction for a row's rank beside what was measured of it."""
    model, world, recompute = model_of(row), row["world"], recompute_of(row)
    split = even_split(model.num_layers, row["pp"])
    assert split is not None
    per_node = min(world, 8)
    problem = Problem(
        model=model,
        cluster=load_topology("h100-8x-ib", world // per_node, per_node),
        workload=Workload(
            seq_length=row["seq"],
            global_batch_size=row["gbs"],
            packing=packed,
        ),
        stack=load_stack(STACK),
        recipe=load_recipe(TunerType.FULL),
    )
    layout = Layout(
        world_size=world,
        **{name: row[name] for name in ("tp", "pp", "cp", "ep", "etp")},
        micro_batch_size=row["mbs"],
        global_batch_size=row["gbs"],
        recompute=recompute,
        split=split,
    )
    stage = row["rank"] // (world // row["pp"])
    batch = Evaluator(problem).batch(layout)
    memory = batch.memory(recompute)[stage]
    predicted = {
        "after_build": memory.after_build / GIB,
        "steady": memory.steady / GIB,
        "peak_allocated": memory.peak_allocated / GIB,
        "peak_reserved": memory.peak_reserved / GIB,
        "device_used": (memory.device_used - memory.nccl) / GIB,
    }
    return Rank(
        tag=row["tag"],
        layout=_named(row, stage, recompute),
        parameters=batch.parameters(stage).total,
        measured_parameters=row.get("parameters"),
        predicted={name: predicted[name] for name in measured},
        measured=measured,
    )


def _named(row: Row, stage: int, recompute: Recompute) -> str:
    sizes = " ".join(f"{name}{row[name]}" for name in ("tp", "pp", "cp", "ep") if row[name] > 1)
    where = f", stage {stage}" if row["pp"] > 1 else ""
    return f"{row['world']} GPUs, {sizes}{where}, {row['layers']} layers, {recompute}"


def rows(name: str) -> list[Row]:
    """The rows of a file beside this one."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def one_rank_rows() -> list[Rank]:
    """Single ranks of larger jobs: real Megatron-Core on one GPU, without communication."""
    columns = {
        "after_build": "weights_and_grads_gib",
        "steady": "steady_allocated_gib",
        "peak_allocated": "peak_allocated_gib",
        "peak_reserved": "max_reserved_gib",
        "device_used": "device_used_gib",
    }
    return [
        rank_of(row, {name: row[column] for name, column in columns.items()}, packed=False)
        for file in ("one_rank_h100.jsonl", "traced_ranks_h100.jsonl")
        for row in rows(file)
    ]


def real_runs() -> list[Rank]:
    """Ranks of `megatron sft` on two GPUs; where only the largest was logged, the fullest rank."""
    on_two = [rank for row in rows("megatron_sft_2xh100.jsonl") for rank in _ranks_of_run(row)]
    return on_two + [_compared(rank) for rank in real_ranks()]


def _compared(real: RealRank) -> Rank:
    """A rank of the runs that were read step by step."""
    predicted, layout = real.predicted, real.predicted.layout
    sizes = {name: getattr(layout, name) for name in ("tp", "pp", "cp", "ep")}
    row = {"world": layout.world_size, "layers": predicted.row.config["num_hidden_layers"], **sizes}
    memory = {name: getattr(predicted.memory, name) / GIB for name in real.measured}
    return Rank(
        tag=real.tag,
        layout=_named(row, predicted.row.rank if layout.pp > 1 else 0, layout.recompute),
        parameters=predicted.parameters.total,
        measured_parameters=real.seen[0]["parameters"],
        predicted=memory,
        measured={name: size / GIB for name, size in real.measured.items()},
    )


def _ranks_of_run(run: Row) -> Iterator[Rank]:
    given = run["args"].replace("--", "").split()
    args = dict(zip(given[::2], given[1::2], strict=True))
    row: Row = {
        "tag": run["tag"],
        "world": run["gpus"],
        "layers": 4,
        "tp": int(args.get("tensor_model_parallel_size", 1)),
        "pp": int(args.get("pipeline_model_parallel_size", 1)),
        "ep": int(args.get("expert_model_parallel_size", 1)),
        "cp": 1,
        "etp": 1,
        "seq": int(args["max_length"]),
        "mbs": int(args["micro_batch_size"]),
        "gbs": int(args["global_batch_size"]),
        "recompute": args.get("recompute_granularity", "selective"),  # ms-swift's default
    }
    if not run["per_rank"]:
        yield rank_of({**row, "rank": 0}, {"peak_reserved": run["max_reserved_gib"]})
    for rank, logged in enumerate(run["per_rank"]):
        measured = {
            "steady": logged["cur_alloc"],
            "peak_allocated": logged["max_alloc"],
            "peak_reserved": logged["max_reserved"],
        }
        yield rank_of({**row, "rank": rank}, measured)


def p90(ranks: list[Rank], quantity: str) -> tuple[float, int]:
    """The relative error that nine of ten ranks stay within, and how many ranks there are."""
    errors = [abs(rank.error(quantity)) for rank in ranks if quantity in rank.measured]
    return nine_of_ten(errors), len(errors)


def confidence() -> str:
    """The text of planner/data/confidence.yaml; what is not in it was not measured."""
    lines = [
        "# Errors of predictions on the ranks of benchmarks/memory/fresh2.jsonl, as they were",
        "# before anybody had looked at them; the README.md there has each, and the script beside",
        "# it wrote this. Calibrated: terms and constants were read off other ranks of the same",
        "# stack. device_used is without NCCL, which these ranks did not run, and of those with a",
        "# device of their own. Compute seconds are of ranks on an H200 that were not fitted to:",
        "# benchmarks/steptime/ONE_RANK.md; those of whole steps are of real runs on two GPUs:",
        "# benchmarks/steptime/TWO_GPUS.md.",
        "measured:",
    ]
    clean = first_look2()
    exact = all(each.parameters.total == each.result["parameters"] for each in clean)
    entries = [("stages.parameters", "measured", 0.0, len(clean))] if exact else []
    for name, quantity in QUANTITIES.items():
        errors = [abs(each.error(name)) for each in clean if name in each.pairs]
        entries.append((quantity.path, "calibrated", nine_of_ten(errors), len(errors)))
    times = [abs(rank.error) for rank in one_rank.h200_ranks(second_lot=True)]
    entries.append(("stages.compute_seconds", "calibrated", nine_of_ten(times), len(times)))
    steps = [abs(each.predicted / each.measured - 1) for each in two_gpus_report.every_layout()]
    entries.append(("step_seconds.total", "calibrated", nine_of_ten(steps), len(steps)))
    for path, grade, error, number in entries:
        entry = f"{{grade: {grade}, relative_error_p90: {error:.4f}, rows: {number}}}"
        lines.append(f"  {path}: {entry}")
    return "\n".join(lines) + "\n"


def _cell(rank: Rank, name: str) -> str:
    if name not in rank.measured:
        return ""
    decimals = QUANTITIES[name].decimals
    predicted, measured = rank.predicted[name], rank.measured[name]
    error = round(rank.error(name), 3) + 0.0  # no -0.0
    return f"{predicted:.{decimals}f} / {measured:.{decimals}f} ({error:+.1%})"


def _table(ranks: list[Rank], names: list[str]) -> list[str]:
    titles = [QUANTITIES[name].title for name in names]
    lines = [_line(["row", "layout", *titles]), _line(["---"] * (2 + len(names)))]
    for rank in ranks:
        lines.append(_line([rank.tag, rank.layout, *(_cell(rank, name) for name in names)]))
    return lines


def _steps() -> list[str]:
    """The table of what each rank said step by step."""
    titles = ["row", "steps", "reserved", "logged", "beside reserved", "load"]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for rank in real_ranks():
        reserved = [f"{rank.seen[step]['peak_reserved'] / GIB:.2f}" for step in (1, -1)]
        cells = [
            rank.tag,
            str(len(rank.seen) - 1),
            ", ".join(reserved),
            f"{rank.logged_memory_gib:.2f}",
            f"{over_sockets(rank.predicted.layout) / GIB:.2f} / {rank.beside_reserved / GIB:.2f}",
            f"{rank.expert_load:.2f}, {rank.most_expert_load:.2f}",
        ]
        lines.append(_line(cells))
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


HEAD = """\
# Predicted and measured memory

Written by `report.py` (`make pages`); a test holds it up to date. Every cell is
predicted / measured (error), for the stack `gpu-kit-2026-11` on H100s, the second lot of fresh
ranks on an H200. How ranks were chosen and measured: [DESIGN.md](DESIGN.md). What Megatron-LM
publishes of its own runs, none of them fitted to: [GOLDEN.md](GOLDEN.md).
"""

ONE_RANK = """
## Single ranks that were looked at

The first ranks that were measured, by other means than those of the design; the model was read off
them too. Real Megatron-Core and Transformer Engine ran one rank on one GPU; a fake process group
took the place of the others, with one document in a row and routing forced to be balanced.
Parameters are exact on all {number} rows. Left out: NCCL's memory (here the prediction leaves it
out too), imbalance, communication.
Rows are in `one_rank_h100.jsonl` and `traced_ranks_h100.jsonl`; widths are those of Qwen3-30B-A3B,
but for `dense_*` (Qwen2.5-7B with norms of q and k) and `mla_*` (sparse layers of DeepSeek-V3).
"""

REAL_RUNS = """
## Ranks of real runs

`megatron sft` of two ranks, with natural routing of packed data and real NCCL: on two H100s
(`megatron_sft_2xh100.jsonl`), or on one H200 that both share, each as a node of its own
(`sft_2ranks_h200.jsonl`: those that say what they hold after building). Predicted at balanced
routing, as before a run.
"""

ONE_PROCESS = """
One process of `megatron sft` (four layers of the widths of Qwen3-30B-A3B, packs of 2,048 tokens,
one H100, 2026-11-24), which saved weights without the optimizer, was read by nvidia-smi every
second: 60.12 GiB at most, in its steps, and 56.5 while it saved; its allocator had reserved 56.16
at most, as logged after the last step. Saving took no more than a step did there, and no more in a
run that saved the optimizer's states too ([benchmarks/launch](../launch/README.md): 1.43 GiB
reserved before and after it). What saving, loading and resuming take by the sources is in `plan
--json`; `first_look_save.jsonl` has what was predicted of runs that are to measure it (its
`load_mcore_checkpoint` counts the moments of experts alone twice: both optimizers' old moments are
held until loading is over).
"""

STEP_BY_STEP = """
Of the runs on one H200, step by step. Reserved is the most until then, in GiB: after the first
step and the last, beside the `memory(GiB)` that ms-swift logs last (the most of all ranks). Beside
reserved is what the process takes of the device (nvidia-smi) that its allocator does not know, the
CUDA context and NCCL over sockets: predicted / measured, GiB. Load is what the rank's experts got
over their share of full packs: the mean, and the most that a layer got of one microbatch.
"""


def page(single: list[Rank], real: list[Rank]) -> str:
    """The text of README.md."""
    lines = [HEAD, *design_page()]
    lines += [ONE_RANK.format(number=len(single)), *_table(single, list(QUANTITIES))]
    names = ["after_build", "steady", "peak_allocated", "peak_reserved"]
    lines += [REAL_RUNS, *_table(real, names), STEP_BY_STEP, *_steps()]
    lines += [ONE_PROCESS, *save_page.section(), *nvlink_page.section()]
    lines += [*plan_verify_page.section(), *peers_table()]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def main() -> None:
    """Write both files."""
    single, real = one_rank_rows(), real_runs()
    PAGE.write_text(page(single, real), encoding="utf-8")
    CONFIDENCE_FILE.write_text(confidence(), encoding="utf-8")


if __name__ == "__main__":
    main()
