"""Predicts a rank of the design: the planner's own evaluation of the row's arguments."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measure.verify.row import Row, read_rows
from planner.cluster import Cluster
from planner.communication import Communication
from planner.efficiency import rates
from planner.evaluate import Evaluator
from planner.layer_shape import BF16
from planner.layout import Layout, Recompute
from planner.memory import StageMemory
from planner.model_config import model_spec_from_config
from planner.model_spec import ModelSpec
from planner.parameters import RankParameters
from planner.problem import Problem
from planner.recipe import load_recipe
from planner.split import even_split
from planner.stack import load_stack
from planner.topology_files import load_topology
from planner.workload import TunerType, Workload

FOLDER = Path(__file__).parent
STACK = "gpu-kit-2026-11"
GPUS_PER_NODE = 8

Result = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A row with what was predicted and what was measured of its rank."""

    row: Row
    layout: Layout
    parameters: RankParameters
    memory: StageMemory
    compute_seconds: float
    copied_seconds: float  # what the harness copies on the device in place of an all-to-all
    result: Result


def flags_of(row: Row) -> dict[str, str]:
    """The arguments of a row by name."""
    flags: dict[str, str] = {}
    name = ""
    for word in row.argv:
        if word.startswith("--"):
            name = word[2:]
            flags[name] = ""
        else:
            flags[name] = f"{flags[name]} {word}".strip()
    return flags


def recompute_of(flags: dict[str, str]) -> Recompute:
    """What a row recomputes."""
    granularity = flags["recompute_granularity"]
    if granularity == "none":
        return Recompute()
    if granularity == "selective":
        return Recompute(granularity="selective", modules=tuple(flags["recompute_modules"].split()))
    return Recompute(
        granularity="full",
        method=flags["recompute_method"],
        num_layers=int(flags["recompute_num_layers"]),
    )


def model_of(row: Row) -> ModelSpec:
    """The model of a row: as many layers as it has, which may be fewer than are dense."""
    layers = row.config["num_hidden_layers"]
    more = row.config | {"num_hidden_layers": layers + row.config.get("first_k_dense_replace", 0)}
    model = model_spec_from_config(more, name=row.id, origin=row.id)
    return replace(model, num_layers=layers, moe_layers=model.moe_layers[:layers])


def predict(
    row: Row, result: Result, *, topology: str = "h100-8x-ib", launch: float = 1.0
) -> Predicted:
    """The prediction for a row at the load that its experts got.

    Memory is the same on all GPUs. `launch` is how long the host takes to launch, over the one that
    was measured: of one host.
    """
    flags = flags_of(row)
    model = model_of(row)
    sizes = {
        short: int(flags.get(f"{name}_parallel_size", 1))
        for short, name in [
            ("tp", "tensor_model"),
            ("pp", "pipeline_model"),
            ("vpp", "virtual_pipeline_model"),
            ("ep", "expert_model"),
            ("etp", "expert_tensor"),
            ("cp", "context"),
        ]
    }
    split = even_split(model.num_layers, sizes["pp"], sizes["vpp"])
    assert split is not None
    layout = Layout(
        world_size=row.world_size,
        **sizes,
        micro_batch_size=int(flags["micro_batch_size"]),
        global_batch_size=int(flags["global_batch_size"]),
        recompute=recompute_of(flags),
        split=split,
    )
    tuner = TunerType(flags["tuner_type"])
    tokens = result.get("expert_tokens")
    workload = Workload(
        seq_length=int(flags["max_length"]),
        mean_document_tokens=int(flags["max_length"]) // row.documents_per_pack,
        global_batch_size=layout.global_batch_size,
        tuner_type=tuner,
        lora_rank=int(flags.get("lora_rank", 8)),
        mtp_num_layers=int(flags.get("mtp_num_layers", 0)),
        routing_imbalance=tokens["mean"] / tokens["balanced"] if tokens else 1.0,
    )
    recipe = replace(
        load_recipe(tuner),
        overlap_grad_reduce=flags["overlap_grad_reduce"] == "true",
        overlap_param_gather=flags["overlap_param_gather"] == "true",
        cross_entropy_loss_fusion=flags["cross_entropy_loss_fusion"] == "true",
    )
    nodes, gpus = max(1, row.world_size // GPUS_PER_NODE), min(GPUS_PER_NODE, row.world_size)
    problem = Problem(
        model=model,
        cluster=_with_host(load_topology(topology, nodes, gpus), launch),
        workload=workload,
        stack=replace(load_stack(STACK), apex=flags["gradient_accumulation_fusion"] == "true"),
        recipe=recipe,
    )
    stage = row.rank // (row.world_size // sizes["pp"])
    evaluator = Evaluator(problem)
    batch = evaluator.batch(layout)
    return Predicted(
        row=row,
        layout=layout,
        parameters=batch.parameters(stage),
        memory=batch.memory(layout.recompute)[stage],
        compute_seconds=batch.step_time(layout.recompute).compute_seconds[stage],
        copied_seconds=_copied_seconds(evaluator, layout, stage),
        result=result,
    )


def _with_host(cluster: Cluster, launch: float) -> Cluster:
    return replace(cluster, calibration=replace(cluster.calibration, launch=launch))


def _copied_seconds(evaluator: Evaluator, layout: Layout, stage: int) -> float:
    """Dispatch and combine, forward, backward and again: `measure/verify/peers.py` copies rows."""
    sizes = (layout.tp, layout.cp, layout.pp, layout.ep, layout.etp)
    communication = Communication(
        evaluator.problem.cluster, evaluator.groups(sizes), evaluator.overlap
    )
    views = evaluator.layers.layers(sizes, layout.micro_batch_size, communication).views
    memory, copied = rates(evaluator.problem.cluster.gpu).memory, 0.0
    for kind, full, count in evaluator.split_view(layout.split).layers(stage, layout.recompute):
        shape = views[kind].imbalanced
        if not shape.is_moe or not shape.dispatches:
            continue
        times = 6 if full or layout.recompute.feed_forward(is_moe=True) else 4
        rows = max(shape.sent_rows, shape.routed_rows / layout.etp)
        copied += count * times * 2 * rows * shape.hidden * BF16 / memory
    return layout.num_microbatches * copied


def results(name: str | Path) -> dict[str, Result]:
    """What was measured, by row: of a file beside this one, or of another path."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return {result["id"]: result for result in map(json.loads, text.splitlines())}


def rows(name: str) -> list[Row]:
    """The rows of a file beside this one."""
    return list(read_rows(FOLDER / name))


def design() -> list[Row]:
    """All rows of the design."""
    return rows("design.jsonl")
