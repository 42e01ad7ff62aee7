"""Host memory of a node while weights are loaded, while training runs and while it saves.

What must be in memory, and the size of a Python process with the stack. Two runs on one GPU say
what the constants are (benchmarks/convert): weights without states, full fine-tuning.
"""

from collections.abc import Sequence
from typing import Any

from planner.layer_shape import BF16
from planner.layout import Layout
from planner.parameters import RankParameters, rank_parameters
from planner.precision import ASSUMED_PINNED_ROUNDING, state_bytes
from planner.problem import Problem, Sizes, as_layout
from planner.stage_shape import expert_shards
from planner.units import GIB
from planner.verdict import Verdict, host_verdict
from planner.workload import TunerType

# A training process with torch, Transformer Engine, its data workers and those that compile
# kernels: 3.6 GiB of one alone, 4.0 of each of two beside each other (a control group's anonymous
# pages: those that forked processes share are counted once).
ASSUMED_PROCESS_BYTES = 4 * GIB


def host_memory_bytes(
    problem: Problem, layout: Layout, stages: Sequence[RankParameters]
) -> dict[str, int]:
    """Bytes a node by moment, where all its ranks are of the stage that needs most then.

    Loading stages the rank's bf16 weights once on the host. Saving stages what the rank writes:
    its part of the weights, of LoRA of the adapters, which ranks that have the same share out
    among them (ms-swift 4.6.0, swift/megatron/utils/megatron_lm_utils.py:357), and, unless they are
    not saved, as much of the optimizer's fp32 states (megatron-core 0.18.1,
    dist_checkpointing/strategies/filesystem_async.py:243: a pinned copy before writing, whose
    tensors torch rounds up to powers of two). An offloaded optimizer is there from the first step
    on. Not in it: 4 GiB that a start with an empty kernel cache had pinned besides, and the next
    one had not: most likely what tuned kernels overwrite (torch 2.11,
    _inductor/runtime/triton_heuristics.py: copy_args_to_cpu_if_needed).
    """
    shards = layout.dp * layout.cp, expert_shards(problem, layout)
    ranks = [_of_a_rank(problem, rank, *shards) for rank in dict.fromkeys(stages)]
    return {
        moment: problem.cluster.gpus_per_node * max(rank[moment] for rank in ranks)
        for moment in ranks[0]
    }


def _of_a_rank(problem: Problem, rank: RankParameters, dense: int, experts: int) -> dict[str, int]:
    """Of a rank whose dense parameters, and whose experts, so many ranks have."""
    settings, states = problem.settings, state_bytes(problem.settings)
    shared = rank.trainable_dense / dense + rank.trainable_expert / experts
    kept = shared if settings.use_distributed_optimizer else rank.trainable
    written = shared
    if problem.workload.tuner_type is not TunerType.LORA:
        written = (rank.total - rank.expert) / dense + rank.expert / experts
    saved = written * BF16 + (0 if problem.recipe.no_save_optim else states.saved * shared)
    training = ASSUMED_PROCESS_BYTES + states.host * kept
    return {
        "loading": ASSUMED_PROCESS_BYTES + rank.total * BF16,
        "training": round(training),
        "saving": round(training + ASSUMED_PINNED_ROUNDING * saved),
    }


def verdict_on_host(problem: Problem, needed: dict[str, int]) -> Verdict:
    """The verdict on what `host_memory_bytes` gave."""
    cluster = problem.cluster
    has, assumed = cluster.host_memory_bytes, cluster.assumes_host_memory
    return host_verdict(max(needed.values()), has, assumed=assumed)


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
