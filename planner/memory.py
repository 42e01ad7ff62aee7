"""Memory of the worst rank of a stage: a list of terms, each alive at some moments.

A peak is the maximum over moments of the sum of the terms alive then. Where a source names a trace,
it is the allocator's history of a real rank on one H100 (megatron-core 0.18.1, Transformer Engine
2.12.0, 2026-11-24); mc = megatron/core, te = transformer_engine/pytorch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from planner.layer_shape import BF16, FP32
from planner.parameters import RankParameters
from planner.precision import StateBytes
from planner.units import GIB, MIB


class Moment(StrEnum):
    """When memory is looked at."""

    BUILD = "after_build"  # model and optimizer made, nothing run
    STEADY = "steady"  # between steps, from the second on
    LAYER = "layer"  # in a layer's forward or backward pass, all microbatches in flight
    LOSS = "loss"  # in the cross entropy of the last stage
    HEAD = "head_backward"  # in the backward pass of the output layer, on the last stage
    EMBEDDING = "embedding_backward"  # at the end of a microbatch's backward pass, on the first
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
    is_first: bool
    is_last: bool
    num_stages: int
    num_virtual_stages: int
    tensor_parallel: bool
    mtp_num_layers: int
    has_experts: bool
    rotary_elements: int  # of the rotary embedding of a token
    gates_shared_experts: bool
    lora: bool
    fused_loss: bool  # cross_entropy_loss_fusion
    fused_gradients: bool  # gradient_accumulation_fusion
    # micro-batch
    tokens: int = 0
    sharded_tokens: int = 0
    # recomputation
    saved_bytes: float = 0.0  # by all layers of the stage, of one microbatch
    whole_layers: bool = False  # whether layers are recomputed as a whole
    recomputed_bytes: float = 0.0  # built again, of the layer that needs most
    transient_bytes: float = 0.0  # beside, of that layer for a moment
    checkpoints_bytes: float = 0.0  # inputs that sparse layers are recomputed from
    whole_checkpoints_bytes: float = 0.0  # of those, inputs of whole layers
    checkpoint_bytes: float = 0.0  # the largest of them
    maps_bytes: float = 0.0  # that the token dispatchers hold
    checkpointed_maps_bytes: float = 0.0  # of those in recomputed layers
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

# torch's own, where a product is torch's: the output layer, the gate of shared experts. Measured:
# what steady ranks hold beside all else (benchmarks/memory, 2026-11-24).
TORCH_WORKSPACES_BYTES = 64 * MIB

_ALWAYS = frozenset(Moment)
_AFTER_FIRST_STEP = _ALWAYS - {Moment.BUILD}
_BETWEEN = frozenset({Moment.STEADY, Moment.OPTIMIZER})
_RUNNING = frozenset({Moment.LAYER, Moment.LOSS, Moment.HEAD, Moment.EMBEDDING})
_IN_LAST_STAGE = frozenset({Moment.LOSS, Moment.HEAD})


def shard_elements(s: StageShape) -> float:
    """Trainable elements whose states the rank keeps."""
    p = s.parameters
    return p.trainable_dense / s.dense_shards + p.trainable_expert / s.expert_shards


def _hidden_states(s: StageShape) -> float:
    return s.sharded_tokens * s.hidden * BF16


def _logits(s: StageShape) -> float:
    return float(s.tokens * s.vocabulary) if s.is_last else 0.0


def _chunks_with_input(s: StageShape) -> int:
    """Chunks of the stage that another stage feeds."""
    return s.num_virtual_stages - s.is_first if s.num_stages > 1 else 0


def _gathered(s: StageShape) -> float:
    return s.tokens * s.hidden * BF16 if s.tensor_parallel else 0.0


def _vocabulary_gradient(s: StageShape) -> float:
    """The gradient of an embedding or output layer, where it is a tensor of its own."""
    return 0.0 if s.lora else float(s.vocabulary * s.hidden * BF16)


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
        "torch_workspaces",
        "other",
        "pipeline",
        _AFTER_FIRST_STEP,
        lambda s: TORCH_WORKSPACES_BYTES * (s.is_last + s.gates_shared_experts),
        "64 MiB on the last stage, 64 MiB with gated shared experts",
        "torch 2.11, aten/src/ATen/cuda/CublasHandlePool.cpp: of cuBLAS and of cuBLASLt, by stream",
    ),
    MemoryTerm(
        "gathered_tokens",
        "logits",
        "batch",
        _AFTER_FIRST_STEP,
        lambda s: _gathered(s) if s.is_last and not s.lora else 0,
        "2 B * tokens * hidden, with TP",
        "mc/tensor_parallel/layers.py:495: a buffer that stays",
    ),
    MemoryTerm(
        "saved_activations",
        "acts",
        "schedule",
        _RUNNING - {Moment.EMBEDDING},
        lambda s: s.in_flight * s.saved_bytes,
        "microbatches in flight * sum over layers of what each keeps",
        "planner/activations.py",
    ),
    MemoryTerm(
        "rotary_embedding",
        "acts",
        "schedule",
        _RUNNING,
        lambda s: (
            (s.in_flight * s.num_virtual_stages if s.whole_layers else 1)
            * s.tokens
            * s.rotary_elements
            * FP32
        ),
        "4 B * tokens * head_dim, of every microbatch in flight where layers are recomputed",
        "mcore_bridge/model/gpt_model.py:301: an argument of each layer",
    ),
    MemoryTerm(
        "saved_by_others",
        "acts",
        "schedule",
        frozenset({Moment.EMBEDDING}),
        lambda s: max(0, s.in_flight - 1 / s.num_virtual_stages) * s.saved_bytes,
        "(microbatches in flight - 1 / virtual stages) * sum over layers of what each keeps",
        "planner/activations.py: all but the one that has come to its end",
    ),
    MemoryTerm(
        "kept_stage_inputs",
        "acts",
        "recompute",
        _AFTER_FIRST_STEP,
        lambda s: (
            (1 if s.whole_checkpoints_bytes else 2) * _chunks_with_input(s) * _hidden_states(s)
        ),
        "2 * chunks that another stage feeds * 2 B * tokens/tp * hidden; once where the first layer "
        "of a chunk keeps its input",
        "mc/transformer/transformer_block.py: input_tensor of the last microbatch, its gradient",
    ),
    MemoryTerm(
        "stage_gradient",
        "acts",
        "batch",
        frozenset({Moment.LAYER, Moment.EMBEDDING}),
        lambda s: _hidden_states(s) if s.num_stages > 1 else 0,
        "2 B * tokens/tp * hidden",
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
        "layer_buffers",
        "dispatch",
        "recompute",
        frozenset({Moment.LAYER}),
        lambda s: s.transient_bytes,
        "at the worst of the moments of a layer, less what it keeps that is gone by then",
        "planner/layer_moments.py",
    ),
    MemoryTerm(
        "checkpoint_gradients",
        "acts",
        "recompute",
        frozenset({Moment.LAYER}),
        lambda s: max(0, s.whole_checkpoints_bytes - s.checkpoint_bytes),
        "(sparse layers recomputed as a whole - 1) * 2 B * tokens/tp * hidden",
        "mc/transformer/moe/token_dispatcher.py: probs, whose graph ends at each layer's input",
    ),
    MemoryTerm(
        "kept_graph",
        "acts",
        "recompute",
        _BETWEEN,
        lambda s: 2 * s.checkpoints_bytes,
        "2 * recomputed sparse layers * 2 B * tokens/tp * hidden",
        "mc/transformer/moe/token_dispatcher.py: probs of the last microbatch hold each layer's "
        "input and its gradient until the next step",
    ),
    MemoryTerm(
        "kept_maps",
        "acts",
        "recompute",
        _BETWEEN,
        lambda s: s.maps_bytes,
        "tokens/tp * (13 B * experts + 4 B) of each sparse layer",
        "mc/transformer/moe/token_dispatcher.py: probs, routing_map and the map of "
        "te/triton/permutation.py:52, of the last microbatch",
    ),
    MemoryTerm(
        "kept_maps_of_recomputed",
        "acts",
        "recompute",
        _RUNNING,
        lambda s: s.checkpointed_maps_bytes,
        "the same, of recomputed layers, which do not keep them for themselves",
        "mc/transformer/moe/token_dispatcher.py: dispatch_preprocess",
    ),
    MemoryTerm(
        "logits_bf16",
        "logits",
        "batch",
        _IN_LAST_STAGE,
        lambda s: _logits(s) * BF16,
        "2 B * tokens * vocabulary/tp, or as much for their gradient",
        "mc/tensor_parallel/layers.py:501",
    ),
    MemoryTerm(
        "logits_fp32",
        "logits",
        "batch",
        frozenset({Moment.LOSS}),
        lambda s: _logits(s) * FP32 * (2 if s.fused_loss else 1),
        "4 B * tokens * vocabulary/tp, twice with the fused loss",
        "mc/tensor_parallel/cross_entropy.py:30 and, fused, 65: the fp32 copy and its exponentials",
    ),
    MemoryTerm(
        "mtp_logits",
        "logits",
        "batch",
        _IN_LAST_STAGE,
        lambda s: _logits(s) * (BF16 + FP32) * s.mtp_num_layers,
        "(2 + 4) B * tokens * vocabulary/tp * MTP layers",
        "trace: mc/tensor_parallel/layers.py:366 and cross_entropy.py:30, of each MTP loss",
    ),
    MemoryTerm(
        "mtp_inputs",
        "logits",
        "batch",
        _IN_LAST_STAGE,
        lambda s: s.mtp_num_layers * (4 * _hidden_states(s) + _gathered(s)) if s.is_last else 0,
        "MTP layers * (4 * 2 B * tokens/tp * hidden, and with TP the gathered tokens)",
        "mcore_bridge/model/modules/mtp_layer.py:411, mcore_bridge/patcher.py:298, "
        "mc/tensor_parallel/mappings.py:94",
    ),
    MemoryTerm(
        "head_inputs",
        "logits",
        "batch",
        _IN_LAST_STAGE,
        lambda s: 2 * _hidden_states(s) if s.is_last else 0,
        "2 * 2 B * tokens/tp * hidden",
        "trace: mc/fusions/fused_bias_dropout.py:58 of the last layer, te/ops/basic/rmsnorm.py:187",
    ),
    MemoryTerm(
        "head_gradients",
        "logits",
        "batch",
        frozenset({Moment.HEAD}),
        lambda s: (
            s.tokens * s.hidden * BF16 + (0 if s.fused_gradients else _vocabulary_gradient(s))
            if s.is_last
            else 0
        ),
        "2 B * tokens * hidden + 2 B * vocabulary/tp * hidden without fused gradients",
        "mc/tensor_parallel/layers.py:544 and 643",
    ),
    MemoryTerm(
        "embedding_gradient",
        "logits",
        "batch",
        frozenset({Moment.EMBEDDING}),
        lambda s: _vocabulary_gradient(s) + _gathered(s) if s.is_first else 0,
        "2 B * vocabulary/tp * hidden, and with TP the gathered gradient",
        "mc/tensor_parallel/layers.py:302: the embedding's backward pass",
    ),
)


RUNNING = tuple(moment for moment in Moment if moment in _RUNNING)
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
    return {moment: terms for moment, terms in found.items() if passes(shape, moment)}


def passes(shape: StageShape, moment: Moment) -> bool:
    """Whether the stage comes to a moment: only the last has a loss, the first an embedding."""
    if moment in _IN_LAST_STAGE:
        return shape.is_last
    return moment is not Moment.EMBEDDING or shape.is_first


def stage_memory(
    shape: StageShape, imbalanced: StageShape, *, world_size: int, usable_bytes: int
) -> StageMemory:
    """Peaks of a stage; `imbalanced` is its shape at the workload's routing imbalance.

    Fit is decided on `device_used`: reserved memory at that imbalance, the CUDA context and NCCL.
    """
    alive = _moments(shape)
    totals = {moment: sum(terms.values()) for moment, terms in alive.items()}
    running = [moment for moment in RUNNING if moment in totals]
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
