"""The reasons for memory: each with its bytes, its source and the moments at which it is alive.

Where a source names a trace, it is the allocator's history of a real rank on one H100
(megatron-core 0.18.1, Transformer Engine 2.12.0, 2026-11-24); mc = megatron/core,
te = transformer_engine/pytorch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from planner.layer_shape import BF16, FP32
from planner.stage_shape import Moment, StageShape
from planner.units import MIB


@dataclass(frozen=True, slots=True)
class MemoryTerm:
    """One reason for memory.

    `group` is the column that people see it under; `level` what decides its size: the pipeline
    (grid and split), the batch (micro-batch too), recomputation, and at last the schedule (chunks
    of a stage, microbatches in flight).
    """

    id: str
    group: str  # weights | grads | optimizer | acts | buffers | logits | other
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
RUNNING_MOMENTS = frozenset({Moment.LAYER, Moment.LOSS, Moment.HEAD, Moment.EMBEDDING})
IN_LAST_STAGE = frozenset({Moment.LOSS, Moment.HEAD})


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
        lambda s: s.shard_elements * s.states.master,
        "4 B (as set) * (dense / (dp*cp) + experts / edp)",
        "mc/optimizer/distrib_optimizer.py:422; planner/precision.py",
    ),
    MemoryTerm(
        "optimizer_moments",
        "optimizer",
        "pipeline",
        _AFTER_FIRST_STEP,
        lambda s: s.shard_elements * s.states.moments,
        "8 B (as set; 4 B of SGD's momentum) * (dense / (dp*cp) + experts / edp)",
        "te/optimizers/fused_adam.py:381, made in the first step; planner/precision.py",
    ),
    MemoryTerm(
        "widened_states",
        "optimizer",
        "pipeline",
        frozenset({Moment.OPTIMIZER}),
        lambda s: s.shard_elements * s.states.widened,
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
        "dummy_weight_gradients",
        "grads",
        "pipeline",
        _AFTER_FIRST_STEP,
        lambda s: s.dummy_gradient_bytes,
        "2 B * elements of each shape of weight once, with fused gradients",
        "te/module/base.py:81: get_dummy_wgrad; mc/tensor_parallel/layers.py:617",
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
        lambda s: s.gathered_bytes if s.is_last and not s.lora else 0,
        "2 B * tokens * hidden, with TP",
        "mc/tensor_parallel/layers.py:495: a buffer that stays",
    ),
    MemoryTerm(
        "saved_activations",
        "acts",
        "schedule",
        RUNNING_MOMENTS - {Moment.EMBEDDING},
        lambda s: s.in_flight * s.saved_bytes,
        "microbatches in flight * (sum over layers of what each keeps + the rotary embedding of "
        "each chunk whose layers are recomputed as a whole)",
        "planner/activations.py",
    ),
    MemoryTerm(
        "rotary_embedding",
        "acts",
        "batch",
        RUNNING_MOMENTS,
        lambda s: s.rotary_bytes,
        "4 B * tokens * head_dim",
        "mcore_bridge/model/gpt_model.py:301",
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
        "schedule",
        _BETWEEN,
        lambda s: (
            (1 if s.whole_checkpoints_bytes else 2) * s.chunks_with_input * s.hidden_states_bytes
        ),
        "2 * chunks that another stage feeds * 2 B * tokens/tp * hidden; half of it where sparse "
        "layers, recomputed as a whole, keep their inputs",
        "mc/transformer/transformer_block.py: input_tensor of the last microbatch, its gradient",
    ),
    MemoryTerm(
        "sent_gradients",
        "acts",
        "schedule",
        RUNNING_MOMENTS,
        lambda s: (
            (1 if s.whole_checkpoints_bytes or s.num_virtual_stages == 1 else 2)
            * s.chunks_with_input
            * s.hidden_states_bytes
        ),
        "2 B * tokens/tp * hidden, of the gradient that went to the stage before last; interleaved "
        "2 * chunks that another stage feeds, or half of it, as of kept_stage_inputs",
        "mc/pipeline_parallel/schedules.py: input_tensor_grad, until the next one",
    ),
    MemoryTerm(
        "ended_graph",
        "acts",
        "schedule",
        frozenset({Moment.LOSS}),
        lambda s: s.ended_graph_bytes,
        "2 B * tokens/tp * hidden, not interleaved: the input of the microbatch that ended last",
        "mc/pipeline_parallel/schedules.py: output_tensor, until the next forward pass is over",
    ),
    MemoryTerm(
        "ended_graph_in_layer",
        "acts",
        "schedule",
        frozenset({Moment.LAYER}),
        lambda s: s.ended_graph_bytes if s.layer_in_forward else 0,
        "the same, where a layer needs most in its forward pass; on the first stage with LoRA the "
        "embedding's output and its gradient",
        "mc/pipeline_parallel/schedules.py: output_tensor; mcore_bridge/model/gpt_model.py:174",
    ),
    MemoryTerm(
        "stage_gradient",
        "acts",
        "batch",
        frozenset({Moment.LAYER, Moment.EMBEDDING}),
        lambda s: s.hidden_states_bytes if s.num_stages > 1 else 0,
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
        "buffers",
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
        "kept_embedding_output",
        "acts",
        "recompute",
        _BETWEEN,
        lambda s: s.embedding_leaf_bytes if s.dispatcher_holds_graph else 0,
        "2 * 2 B * tokens/tp * hidden on the first stage, with LoRA and a sparse layer that is not "
        "recomputed",
        "mc/transformer/moe/token_dispatcher.py: probs of the last microbatch, whose graph begins "
        "at the output of the frozen embedding (mcore_bridge/model/gpt_model.py:174)",
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
        RUNNING_MOMENTS,
        lambda s: s.checkpointed_maps_bytes,
        "the same, of recomputed layers, which do not keep them for themselves",
        "mc/transformer/moe/token_dispatcher.py: dispatch_preprocess",
    ),
    MemoryTerm(
        "logits_bf16",
        "logits",
        "batch",
        IN_LAST_STAGE,
        lambda s: s.logits * BF16,
        "2 B * tokens * vocabulary/tp, or as much for their gradient",
        "mc/tensor_parallel/layers.py:501",
    ),
    MemoryTerm(
        "logits_fp32",
        "logits",
        "batch",
        frozenset({Moment.LOSS}),
        lambda s: s.logits * FP32 * (2 if s.fused_loss else 1),
        "4 B * tokens * vocabulary/tp, twice with the fused loss",
        "mc/tensor_parallel/cross_entropy.py:30 and, fused, 65: the fp32 copy and its exponentials",
    ),
    MemoryTerm(
        "mtp_logits",
        "logits",
        "batch",
        IN_LAST_STAGE,
        lambda s: s.logits * (BF16 + FP32) * s.mtp_num_layers,
        "(2 + 4) B * tokens * vocabulary/tp * MTP layers",
        "trace: mc/tensor_parallel/layers.py:366 and cross_entropy.py:30, of each MTP loss",
    ),
    MemoryTerm(
        "mtp_inputs",
        "logits",
        "batch",
        IN_LAST_STAGE,
        lambda s: (
            s.mtp_num_layers * (4 * s.hidden_states_bytes + s.gathered_bytes) if s.is_last else 0
        ),
        "MTP layers * (4 * 2 B * tokens/tp * hidden, and with TP the gathered tokens)",
        "mcore_bridge/model/modules/mtp_layer.py:411, mcore_bridge/patcher.py:298, "
        "mc/tensor_parallel/mappings.py:94",
    ),
    MemoryTerm(
        "head_inputs",
        "logits",
        "batch",
        IN_LAST_STAGE,
        lambda s: 2 * s.hidden_states_bytes if s.is_last else 0,
        "2 * 2 B * tokens/tp * hidden",
        "trace: mc/fusions/fused_bias_dropout.py:58 of the last layer, te/ops/basic/rmsnorm.py:187",
    ),
    MemoryTerm(
        "head_gradients",
        "logits",
        "batch",
        frozenset({Moment.HEAD}),
        lambda s: (
            s.tokens * s.hidden * BF16 + (0 if s.fused_gradients else s.vocabulary_gradient_bytes)
            if s.is_last
            else 0
        ),
        "2 B * tokens * hidden + 2 B * vocabulary/tp * hidden without fused gradients",
        "mc/tensor_parallel/layers.py:544 and 643",
    ),
    MemoryTerm(
        "embedding_gradient",
        "buffers",
        "batch",
        frozenset({Moment.EMBEDDING}),
        lambda s: s.vocabulary_gradient_bytes + s.gathered_bytes if s.is_first else 0,
        "2 B * vocabulary/tp * hidden, and with TP the gathered gradient",
        "mc/tensor_parallel/layers.py:302: the embedding's backward pass",
    ),
)
