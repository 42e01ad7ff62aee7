"""Host memory of a node while weights are loaded, while training runs and while it saves.

A first version: what must be in memory, and an assumed size of a Python process with the stack. One
run on one GPU (benchmarks/convert, 2026-11-24) had 27 GiB at its fullest, while it saved 5.8 GiB of
weights without states: 12 GiB pinned, and 15 GiB of its processes.
"""

from typing import Any

from planner.layer_shape import BF16
from planner.layout import Layout
from planner.parameters import RankParameters, rank_parameters
from planner.precision import state_bytes
from planner.problem import Problem, Sizes, as_layout
from planner.stage_shape import expert_shards
from planner.units import GIB

# A training process with torch, Transformer Engine and its data workers: not measured apart from
# what it saves.
ASSUMED_PROCESS_BYTES = 8 * GIB
# What is saved is copied into pinned memory, a tensor at a time, and torch rounds each up to a
# power of two: 12.2 GiB for 5.8 GiB of weights were measured, once.
ASSUMED_STAGED_COPIES = 2


def host_memory_bytes(
    problem: Problem, layout: Layout, stages: list[RankParameters]
) -> dict[str, int]:
    """Bytes a node by moment.

    Loading stages the rank's bf16 weights once on the host; saving stages weights and, unless they
    are not saved, the rank's shard of the optimizer's fp32 states (megatron-core 0.18.1,
    dist_checkpointing/strategies/filesystem_async.py:243: a pinned copy before writing). An
    offloaded optimizer is there from the first step on.
    """
    settings, gpus_per_node = problem.settings, problem.cluster.gpus_per_node
    largest = max(stages, key=lambda stage: stage.total)
    weights = largest.total * BF16
    sharded = settings.use_distributed_optimizer
    shard = largest.trainable_dense / (layout.dp * layout.cp if sharded else 1)
    shard += largest.trainable_expert / (expert_shards(problem, layout) if sharded else 1)
    states = state_bytes(settings)
    saved = weights + (0 if problem.recipe.no_save_optim else states.saved * shard)
    loading, training = ASSUMED_PROCESS_BYTES, ASSUMED_PROCESS_BYTES + states.host * shard
    return {
        "loading": gpus_per_node * (loading + weights),
        "training": gpus_per_node * round(training),
        "saving": gpus_per_node * round(training + ASSUMED_STAGED_COPIES * saved),
    }


def host_memory(problem: Problem, sizes: Sizes) -> dict[str, Any] | None:
    """A rule's check: an offloaded optimizer fits into the memory of its host.

    Returns the values of the message `rule.host_memory` when it does not.
    """
    split = sizes.split
    if not problem.settings.optimizer_cpu_offload or split is None:
        return None
    layout = as_layout(problem, sizes)
    if layout.dp < 1 or layout.edp < 1 or split.num_stages != sizes.pp:
        return None  # another rule is broken
    cluster, workload = problem.cluster, problem.workload
    stages = [rank_parameters(problem.model, layout, workload, stage) for stage in range(sizes.pp)]
    needed = host_memory_bytes(problem, layout, stages)["training"]
    if needed <= cluster.host_memory_bytes:
        return None
    return {"needed": round(needed / GIB), "available": round(cluster.host_memory_bytes / GIB)}
