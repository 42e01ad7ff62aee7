"""What a conversion takes of its machines: memory, disk and time, as terms with their sources.

`Need` holds the sizes that the terms are made of; a term is a formula of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from planner.memory import ASSUMED_NCCL_BYTES, CUDA_CONTEXT_BYTES
from planner.saving import ASSUMED_DISK_BYTES_PER_SECOND
from planner.units import GIB

# Host memory of one process of ms-swift that converts, without weights: what `megatron export` had
# beside its pinned copy, and `swift export` beside its weights (benchmarks/convert).
PROCESS_BYTES = int(2.0 * GIB)
# Of a conversion of 6 GB, all but reading and writing at the measured 1.5 GB/s: starting two
# processes, imports, building the model, making tables of its tensors (benchmarks/convert).
START_SECONDS = 40.0
SHARD_BYTES = 5 * 10**9  # mcore-bridge 1.6.5, mcore_bridge/bridge/gpt_bridge.py:2122
# Sparse layers whose experts transformers holds twice while it puts them together: 2.2 GiB more
# than the weights at 1.1 GiB a layer were measured, once.
ASSUMED_LAYERS_IN_TRANSIT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Sizes of one way of converting, in bytes."""

    weights: int  # of the whole model, in bfloat16
    source: int  # of the model's files
    stage: int  # weights of the fullest rank
    experts: int  # routed experts of one sparse layer
    experts_fc1: int  # gate and up of them
    stage_fc1: int  # gate and up of all routed experts of the fullest rank
    model_fc1: int  # of the whole model
    merges_anew: bool  # loading puts gate and up together in new memory
    saving_peak: int  # on the rank that writes files of Hugging Face's format
    staging_factor: float  # pinned memory is given in powers of two
    world_size: int
    num_nodes: int
    gpus_per_node: int


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
    id="experts_put_together",
    formula="gate and up of the rank's routed experts once more, on megatron-core 0.18 and later;"
    " before that of one layer's",
    source="megatron-core 0.18.1, megatron/core/transformer/mlp.py:469: a merge function that"
    " ms-swift 4.6.0, swift/megatron/utils/patcher.py:40 no longer replaces; mcore-bridge 1.6.5,"
    " gpt_bridge.py:499",
    value=lambda need: need.stage_fc1 if need.merges_anew else need.experts_fc1,
)
HF_MODEL = Term(
    id="hf_model",
    formula="2 B x parameters: transformers loads the model onto the GPU first",
    source="ms-swift 4.6.0, swift/megatron/convert.py:35; measured: benchmarks/convert",
    value=lambda need: need.weights,
)
IN_TRANSIT = Term(
    id="experts_in_transit",
    formula=f"routed experts of {ASSUMED_LAYERS_IN_TRANSIT} layers",
    source="assumed: measured once, benchmarks/convert",
    value=lambda need: ASSUMED_LAYERS_IN_TRANSIT * need.experts,
)
CONTEXT = Term(
    id="cuda_context",
    formula=f"{CUDA_CONTEXT_BYTES / GIB:.2f} GiB",
    source="measured, see memory.md",
    value=lambda need: CUDA_CONTEXT_BYTES,
)
NCCL = Term(
    id="nccl",
    formula=f"{ASSUMED_NCCL_BYTES / GIB:.1f} GiB with more than one GPU",
    source="assumed, see memory.md",
    value=lambda need: ASSUMED_NCCL_BYTES if need.world_size > 1 else 0,
)
PROCESSES = Term(
    id="processes",
    formula=f"{PROCESS_BYTES / GIB:.1f} GiB a process",
    source="measured: benchmarks/convert",
    value=lambda need: PROCESS_BYTES * need.gpus_per_node,
)
STAGED = Term(
    id="staged_weights",
    formula="weights of the node's ranks, each tensor rounded up to a power of two",
    source="megatron-core 0.18.1, filesystem_async.py:243: a pinned copy before writing;"
    " torch 2.11, c10/core/CachingHostAllocator",
    value=lambda need: need.stage * need.gpus_per_node * need.staging_factor,
)
ON_HOST = Term(
    id="weights_on_host",
    formula="2 B x parameters",
    source="ms-swift 4.6.0, swift/megatron/convert.py:21: use_cpu_initialization",
    value=lambda need: need.weights,
)
COPIED = Term(
    id="experts_copied",
    formula="gate and up of all routed experts once more",
    source="megatron-core 0.18.1, filesystem_async.py:166: parts of a tensor are copied before"
    " writing",
    value=lambda need: need.model_fc1,
)
UNWRITTEN = Term(
    id="unwritten_file",
    formula="a file of the result, 5 GB at most, and the layer that is being copied into it",
    source="mcore-bridge 1.6.5, mcore_bridge/utils/safetensors.py:128, gpt_bridge.py:1205",
    value=lambda need: need.saving_peak,
)
START = Term(
    id="start",
    formula=f"{START_SECONDS:.0f} s",
    source="measured: benchmarks/convert",
    value=lambda need: START_SECONDS,
)
READING = Term(
    id="reading",
    formula="bytes that a node reads / its disk's rate",
    source="assumed rate",
    value=lambda need: need.source / need.num_nodes / ASSUMED_DISK_BYTES_PER_SECOND,
)
READING_ALL = Term(
    id="reading",
    formula="all files / a node's disk's rate, at every start",
    source="assumed rate; nodes that hold the same layers read the same files",
    value=lambda need: need.source / ASSUMED_DISK_BYTES_PER_SECOND,
)
READING_AGAIN = Term(
    id="reading_again",
    formula="the same: transformers reads it first, the bridge afterwards",
    source="ms-swift 4.6.0, swift/megatron/convert.py:35 and :56",
    value=lambda need: need.source / ASSUMED_DISK_BYTES_PER_SECOND,
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
    source="mcore-bridge 1.6.5, mcore_bridge/utils/safetensors.py:119: the first rank writes",
    value=lambda need: need.weights / ASSUMED_DISK_BYTES_PER_SECOND,
)
