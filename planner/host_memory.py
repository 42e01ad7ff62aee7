"""Host memory of a node while weights are loaded, while training runs and while it saves.

A first version: what must be in memory, and an assumed size of a Python process with the stack.
"""

from planner.activations import BF16, FP32
from planner.layout import Layout
from planner.parameters import RankParameters
from planner.units import GIB

# A training process with torch, Transformer Engine and its data workers; not measured yet.
ASSUMED_PROCESS_BYTES = 8 * GIB


def host_memory_bytes(
    layout: Layout, stages: list[RankParameters], gpus_per_node: int
) -> dict[str, int]:
    """Bytes a node by moment.

    Loading stages the rank's bf16 weights once on the host; saving stages weights and, of the
    distributed optimizer, the rank's shard of three fp32 states (megatron-core 0.16.1,
    dist_checkpointing: the state dict of each rank is copied to the host before it is written).
    """
    largest = max(stages, key=lambda stage: stage.total)
    weights = largest.total * BF16
    shard = largest.trainable_dense / (layout.dp * layout.cp)
    shard += largest.trainable_expert / layout.edp
    training = ASSUMED_PROCESS_BYTES
    return {
        "loading": gpus_per_node * (training + weights),
        "training": gpus_per_node * training,
        "saving": gpus_per_node * round(training + weights + 3 * FP32 * shard),
    }
