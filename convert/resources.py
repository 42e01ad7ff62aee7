"""What a conversion takes of its machines: memory, disk and time, as terms with their sources.

`Need` holds the sizes that the terms are made of; a term is a formula of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from planner.memory import ASSUMED_NCCL_BYTES, CUDA_CONTEXT_BYTES
from planner.units import GIB

# Host memory of one process of ms-swift with torch and Transformer Engine that holds no weights.
ASSUMED_PROCESS_BYTES = 4 * GIB
# From the start of a command to its first weight and from its last one to its end.
ASSUMED_START_SECONDS = 30.0
ASSUMED_DISK_BYTES_PER_SECOND = 1e9  # of a node, reading or writing
SHARD_BYTES = 5 * 10**9  # mcore-bridge 1.6.5, mcore_bridge/bridge/gpt_bridge.py:2122


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Sizes of one way of converting, in bytes."""

    weights: int  # of the whole model, in bfloat16
    source: int  # of the model's files
    stage: int  # weights of the fullest rank
    experts_fc1: int  # of one sparse layer: gate and up of all experts
    layer: int  # weights of the largest layer
    staging_factor: float  # pinned memory is given in powers of two
    world_size: int
    num_nodes: int
    gpus_per_node: int
    uses_gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A part of what a conversion takes."""

    id: str
    formula: str
    source: str
    value: Callable[[Need], float]


def amounts(terms: Iterable[Term], need: Need) -> dict[str, int]:
    """The terms that are more than nothing, by id."""
    values = {term.id: round(term.value(need)) for term in terms}
    return {term_id: value for term_id, value in values.items() if value}


def power_of_two(size: int) -> int:
    """The next power of two."""
    return 1 << max(0, size - 1).bit_length()


WEIGHTS = Term(
    id="weights",
    formula="2 B x parameters of the fullest rank",
    source="mcore-bridge 1.6.5, gpt_bridge.py:2012: each rank loads its own",
    value=lambda need: need.stage,
)
GATHERED = Term(
    id="gathered_experts",
    formula="gate and up projections of all experts of a layer",
    source="mcore-bridge 1.6.5, gpt_bridge.py:494: put together on the GPU, layer by layer",
    value=lambda need: need.experts_fc1,
)
CONTEXT = Term(
    id="cuda_context",
    formula=f"{CUDA_CONTEXT_BYTES / GIB:.2f} GiB",
    source="measured, see memory.md",
    value=lambda need: CUDA_CONTEXT_BYTES if need.uses_gpu else 0,
)
NCCL = Term(
    id="nccl",
    formula=f"{ASSUMED_NCCL_BYTES / GIB:.1f} GiB with more than one GPU",
    source="assumed, see memory.md",
    value=lambda need: ASSUMED_NCCL_BYTES if need.world_size > 1 else 0,
)
PROCESSES = Term(
    id="processes",
    formula=f"{ASSUMED_PROCESS_BYTES / GIB:.0f} GiB a process",
    source="measured: benchmarks/convert",
    value=lambda need: ASSUMED_PROCESS_BYTES * need.gpus_per_node,
)
STAGED = Term(
    id="staged_weights",
    formula="weights of the node's ranks, each tensor rounded up to a power of two",
    source="megatron-core 0.18.1, filesystem_async.py:222: a pinned copy before writing;"
    " torch 2.11, c10/core/CachingHostAllocator",
    value=lambda need: need.stage * need.gpus_per_node * need.staging_factor,
)
ON_HOST = Term(
    id="weights_on_host",
    formula="2 B x parameters",
    source="ms-swift 4.6.0, swift/megatron/convert.py:20: use_cpu_initialization",
    value=lambda need: need.weights,
)
SHARD = Term(
    id="shard",
    formula="a file of the result: 5 GB, or all of a smaller model",
    source="mcore-bridge 1.6.5, mcore_bridge/utils/safetensors.py:115",
    value=lambda need: min(SHARD_BYTES, need.weights),
)
LAYER = Term(
    id="layer",
    formula="weights of one layer, and its experts' gate and up once more",
    source="mcore-bridge 1.6.5, gpt_bridge.py:1165: copied expert by expert",
    value=lambda need: need.layer + need.experts_fc1,
)
START = Term(
    id="start",
    formula=f"{ASSUMED_START_SECONDS:.0f} s",
    source="measured: benchmarks/convert",
    value=lambda need: ASSUMED_START_SECONDS,
)
READING = Term(
    id="reading",
    formula="bytes that a node reads / its disk's rate",
    source="assumed rate",
    value=lambda need: need.source / need.num_nodes / ASSUMED_DISK_BYTES_PER_SECOND,
)
WRITING = Term(
    id="writing",
    formula="bytes that a node writes / its disk's rate",
    source="assumed rate; every rank writes its own part",
    value=lambda need: need.weights / need.num_nodes / ASSUMED_DISK_BYTES_PER_SECOND,
)
WRITING_ALONE = Term(
    id="writing",
    formula="bytes / one disk's rate",
    source="mcore-bridge 1.6.5, mcore_bridge/utils/safetensors.py:98: the first rank writes",
    value=lambda need: need.weights / ASSUMED_DISK_BYTES_PER_SECOND,
)
