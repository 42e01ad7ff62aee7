"""Memory of the worst rank of a stage: a list of terms, each alive at some moments.

A peak is the maximum over moments of the sum of the terms alive then. Where a source names a trace,
it is the allocator's history of a real rank on one H100 (megatron-core 0.18.1, Transformer Engine
2.12.0, 2026-11-24); mc = megatron/core, te = transformer_engine/pytorch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from planner.activations import BF16, FP32
from planner.parameters import RankParameters
from planner.precision import StateBytes
from planner.units import GIB, MIB


class Moment(StrEnum):
    """When memory is looked at."""

    BUILD = "after_build"  # model and optimizer made, nothing run
    STEADY = "steady"  # between steps, from the second on
    LAYER = "layer"  # in a layer's forward or backward pass, all microbatches in flight
    LOSS = "loss"  # in the cross entropy of the last stage
    OPTIMIZER = "optimizer_step"


@dataclass(slots=True, kw_only=True)
class StageShape:
    """What the terms are functions of: one rank of one stage.

    Filled from the outside in by `planner.evaluate`: first what the grid and the split decide, then
    what the micro-batch adds, then recomputation, then the schedule.
    """

    # grid and split
    parameters: RankParameters
    states: StateBytes  # bytes of gradients and of the optimizer's states
    weight_copy_bytes: float  # of quantized copies of the weights
    dense_shards: int  # ranks that share the optimizer states of dense parameters: dp*cp
    expert_shards: int  # of routed experts: edp
    hidden: int
    vocabulary: int  # on this rank
    is_last: bool
    num_stages: int
    tensor_parallel: bool
    mtp_num_layers: int
    has_experts: bool
    # micro-batch
    tokens: int = 0
    sharded_tokens: int = 0
    transient_bytes: float = 0.0  # of the layer that needs most for a moment
    # recomputation
    saved_bytes: float = 0.0  # by all layers of the stage, of one microbatch
    recomputed_bytes: float = 0.0  # of the layer that is built again
    checkpointed_layers: int = 0  # layers that keep an input to be recomputed from
    checkpoint_bytes: float = 0.0  # of one such input
    maps_bytes: float = 0.0  # routing maps of all layers, of one microbatch
    # schedule
    in_flight: float = 0.0  # microbatches whose activations are kept


@dataclass(frozen=True, slots=True)
class MemoryTerm:
    """One reason for memory.

    `group` is the column that people see it under; `level` what decides its size: the pipeline
    (grid and split), the batch (micro-batch too), recomputation, and at last the schedule (how many
    microbatches are in flight).
    """

    id: str
    group: str  # weights | grads | optimizer | acts | dispatch | logits | other
    level: str  # pipeline | batch | recompute | schedule
    moments: frozenset[Moment]
    bytes: Callable[[StageShape], float]
    formula: str
    source: str


# te/cpp_extensions/gemm.py:54-58: one cuBLAS workspace of 32 MiB, and four for grouped GEMMs.
CUBLAS_WORKSPACE_BYTES = 32 * MIB
GROUPED_GEMM_WORKSPACES = 4

_ALWAYS = frozenset(Moment)
_AFTER_FIRST_STEP = _ALWAYS - {Moment.BUILD}
_RUNNING = frozenset({Moment.LAYER, Moment.LOSS})


def shard_elements(s: StageShape) -> float:
    """Trainable elements whose states the rank keeps."""
    p = s.parameters
    return p.trainable_dense / s.dense_shards + p.trainable_expert / s.expert_shards


def _hidden_states(s: StageShape) -> float:
    return s.sharded_tokens * s.hidden * BF16


def _logits(s: StageShape) -> float:
    return float(s.tokens * s.vocabulary) if s.is_last else 0.0


TERMS: tuple[MemoryTerm, ...] = (
    MemoryTerm(
        "weights",
        "weights",
        "pipeline",
        _ALWAYS,
        lambda s: s.parameters.total * BF16,
        "2 B * parameters",
        "mc/distributed/param_and_grad_buffer.py:1116",
    ),
    MemoryTerm(
        "gradients",
        "grads",
        "pipeline",
        _ALWAYS,
        lambda s: s.parameters.trainable * s.states.gradient,
        "4 B (2 B in bf16) * trainable parameters",
        "mc/distributed/param_and_grad_buffer.py:1122, accumulate_allreduce_grads_in_fp32",
    ),
    MemoryTerm(
        "master_weights",
        "optimizer",
        "pipeline",
        _ALWAYS,
        lambda s: shard_elements(s) * s.states.master,
        "4 B (as set) * (dense / (dp*cp) + experts / edp)",
        "mc/optimizer/distrib_optimizer.py:422; planner/precision.py",
    ),
    MemoryTerm(
        "adam_moments",
        "optimizer",
        "pipeline",
        _AFTER_FIRST_STEP,
        lambda s: shard_elements(s) * s.states.moments,
        "8 B (as set) * (dense / (dp*cp) + experts / edp)",
        "te/optimizers/fused_adam.py:381, made in the first step; planner/precision.py",
    ),
    MemoryTerm(
        "widened_states",
        "optimizer",
        "pipeline",
        frozenset({Moment.OPTIMIZER}),
        lambda s: shard_elements(s) * s.states.widened,
        "4 B * states below fp32 * (dense / (dp*cp) + experts / edp)",
        "te/optimizers/fused_adam.py: step, get_unscaled_state",
    ),
    MemoryTerm(
        "fp8_weight_copies",
        "weights",
        "pipeline",
        _AFTER_FIRST_STEP,
        lambda s: s.weight_copy_bytes,
        "2 B * weights of linear layers, with fp8 products of bf16 weights",
        "te/module/base.py: get_weight_workspace; planner/precision.py",
    ),
    MemoryTerm(
        "gemm_workspaces",
        "other",
        "pipeline",
        _AFTER_FIRST_STEP,
        lambda s: CUBLAS_WORKSPACE_BYTES * (1 + GROUPED_GEMM_WORKSPACES * s.has_experts),
        "32 MiB, five times with experts",
        "te/cpp_extensions/gemm.py:54-58",
    ),
    MemoryTerm(
        "saved_activations",
        "acts",
        "schedule",
        _RUNNING,
        lambda s: s.in_flight * s.saved_bytes,
        "microbatches in flight * sum over layers of what each keeps",
        "planner/activations.py",
    ),
    MemoryTerm(
        "stage_inputs",
        "acts",
        "schedule",
        _RUNNING,
        lambda s: (s.in_flight + (1 if s.num_stages > 1 else 0)) * _hidden_states(s),
        "(microbatches in flight + 1) * 2 B * tokens/tp * hidden",
        "mc/pipeline_parallel/p2p_communication.py:331; with one stage the embedding's output",
    ),
    MemoryTerm(
        "stage_gradients",
        "acts",
        "batch",
        frozenset({Moment.LAYER}),
        lambda s: 2 * _hidden_states(s) if s.num_stages > 1 else 0,
        "2 * 2 B * tokens/tp * hidden",
        "mc/pipeline_parallel/p2p_communication.py:339",
    ),
    MemoryTerm(
        "recomputed_layer",
        "acts",
        "recompute",
        frozenset({Moment.LAYER}),
        lambda s: s.recomputed_bytes,
        "what one layer gave up, built again",
        "mc/tensor_parallel/random.py: CheckpointFunction.backward",
    ),
    MemoryTerm(
        "checkpoint_gradients",
        "acts",
        "recompute",
        frozenset({Moment.LAYER}),
        lambda s: max(0, s.checkpointed_layers - 1) * s.checkpoint_bytes,
        "(checkpointed layers - 1) * 2 B * tokens/tp * hidden",
        "trace: mc/tensor_parallel/random.py:630, alive until the microbatch's graph is freed",
    ),
    MemoryTerm(
        "kept_graph",
        "acts",
        "recompute",
        frozenset({Moment.STEADY, Moment.OPTIMIZER}),
        lambda s: 2 * s.checkpointed_layers * s.checkpoint_bytes + s.maps_bytes,
        "2 * checkpointed layers * 2 B * tokens/tp * hidden + routing maps",
        "trace: inputs and gradients of the last microbatch's checkpoints, alive between steps",
    ),
    MemoryTerm(
        "kept_maps",
        "acts",
        "recompute",
        _RUNNING,
        lambda s: s.maps_bytes if s.checkpointed_layers else 0,
        "routing maps of all checkpointed layers",
        "trace: te/triton/permutation.py:52 and mc/transformer/moe/moe_utils.py:836",
    ),
    MemoryTerm(
        "dispatch_buffers",
        "dispatch",
        "batch",
        frozenset({Moment.LAYER}),
        lambda s: s.transient_bytes,
        "2 B * hidden * (rows sent + 3 * rows received), or the gradients at the activation",
        "planner/activations.py: transients",
    ),
    MemoryTerm(
        "logits_bf16",
        "logits",
        "batch",
        frozenset({Moment.LOSS}),
        lambda s: _logits(s) * BF16,
        "2 B * tokens * vocabulary/tp",
        "mc/tensor_parallel/layers.py:501",
    ),
    MemoryTerm(
        "logits_fp32",
        "logits",
        "batch",
        frozenset({Moment.LOSS}),
        lambda s: _logits(s) * 2 * FP32,
        "2 * 4 B * tokens * vocabulary/tp",
        "mc/tensor_parallel/cross_entropy.py:30 and 65: the fp32 copy and the shifted copy",
    ),
    MemoryTerm(
        "mtp_softmax",
        "logits",
        "batch",
        frozenset({Moment.LOSS}),
        lambda s: _logits(s) * FP32 * s.mtp_num_layers,
        "4 B * tokens * vocabulary/tp * MTP layers",
        "mc/fusions/fused_cross_entropy.py: saved softmax of each MTP loss",
    ),
    MemoryTerm(
        "head_inputs",
        "logits",
        "batch",
        frozenset({Moment.LOSS}),
        lambda s: (3 * _hidden_states(s) + _gathered(s)) if s.is_last else 0,
        "3 * 2 B * tokens/tp * hidden, and with TP the gathered tokens",
        "trace: mc/tensor_parallel/layers.py:495, 501 and 544",
    ),
)


def _gathered(s: StageShape) -> float:
    return s.tokens * s.hidden * BF16 if s.tensor_parallel else 0.0


LEVELS = ("pipeline", "batch", "recompute", "schedule")

_BYTES_AT = {
    (level, moment): tuple(
        term.bytes for term in TERMS if term.level == level and moment in term.moments
    )
    for level in LEVELS
    for moment in Moment
}

# Reserved over allocated at the peak, with expandable segments: 0.8 to 1.7 % on the rows of 30 GiB
# and more of benchmarks/memory, up to 4.5 % (0.8 GiB) on smaller ones, which have room for it.
ALLOCATOR_RESERVE_FRACTION = 0.017

# Device use less reserved of one process without NCCL: 0.69 to 0.86 GiB on 18 rows of real ranks
# (2026-11-24); the largest.
CUDA_CONTEXT_BYTES = int(0.86 * GIB)

# NCCL's buffers in a job of more than one rank: 2.28 GiB a rank of `megatron sft` under EP2 on two
# ranks that spoke over sockets (2026-11-24, NCCL 2.28.9). Neither NVLink, nor InfiniBand, nor more
# ranks were measured.
ASSUMED_NCCL_BYTES = int(2.3 * GIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Memory of a stage's worst rank, in bytes. `terms` are those alive at `peak_moment`."""

    terms: dict[str, int]
    peak_moment: Moment
    after_build: int
    steady: int
    peak_forward_backward: int
    peak_optimizer_step: int
    peak_allocated: int
    peak_allocated_at_imbalance: int
    peak_reserved: int
    device_used: int
    usable: int


def level_bytes(shape: StageShape, level: str, moment: Moment) -> float:
    """Bytes of the terms of one level that are alive at a moment."""
    total = 0.0
    for size in _BYTES_AT[level, moment]:
        total += size(shape)
    return total


def device_used(allocated_bytes: float, world_size: int) -> float:
    """Device memory that a process takes with so many bytes allocated at its peak."""
    reserved = allocated_bytes * (1 + ALLOCATOR_RESERVE_FRACTION)
    return reserved + CUDA_CONTEXT_BYTES + (ASSUMED_NCCL_BYTES if world_size > 1 else 0)


def _moments(shape: StageShape) -> dict[Moment, dict[str, int]]:
    """Bytes of every term by moment."""
    found: dict[Moment, dict[str, int]] = {moment: {} for moment in Moment}
    for term in TERMS:
        size = round(term.bytes(shape))
        if size:
            for moment in term.moments:
                found[moment][term.id] = size
    if not shape.is_last:
        del found[Moment.LOSS]
    return found


def stage_memory(
    shape: StageShape, imbalanced: StageShape, *, world_size: int, usable_bytes: int
) -> StageMemory:
    """Peaks of a stage; `imbalanced` is its shape at the workload's routing imbalance.

    Fit is decided on `device_used`: reserved memory at that imbalance, the CUDA context and NCCL.
    """
    alive = _moments(shape)
    totals = {moment: sum(terms.values()) for moment, terms in alive.items()}
    running = [moment for moment in (Moment.LAYER, Moment.LOSS) if moment in totals]
    peak_moment = max((*running, Moment.OPTIMIZER), key=totals.__getitem__)
    peak = totals[peak_moment]
    at_imbalance = peak
    if imbalanced is not shape:
        at_imbalance = max(sum(terms.values()) for terms in _moments(imbalanced).values())
    return StageMemory(
        terms=alive[peak_moment],
        peak_moment=peak_moment,
        after_build=totals[Moment.BUILD],
        steady=totals[Moment.STEADY],
        peak_forward_backward=max(totals[moment] for moment in running),
        peak_optimizer_step=totals[Moment.OPTIMIZER],
        peak_allocated=peak,
        peak_allocated_at_imbalance=at_imbalance,
        peak_reserved=round(at_imbalance * (1 + ALLOCATOR_RESERVE_FRACTION)),
        device_used=round(device_used(at_imbalance, world_size)),
        usable=usable_bytes,
    )
