"""One rank of one stage as memory sees it, and the moments at which it is looked at."""

from dataclasses import dataclass
from enum import StrEnum

from planner.layer_shape import BF16, FP32, rotary_elements
from planner.layout import Layout
from planner.parameters import RankParameters, linear_elements, rank_parameters
from planner.precision import StateBytes, fp8_copy_bytes
from planner.problem import Problem
from planner.weight_shapes import distinct_weight_elements
from planner.workload import TunerType


class Moment(StrEnum):
    """When memory is looked at."""

    BUILD = "after_build"  # model and optimizer made, nothing run
    STEADY = "steady"  # between steps, from the second on
    LAYER = "layer"  # in a layer's forward or backward pass, all microbatches in flight
    LOSS = "loss"  # in the cross entropy of the last stage
    HEAD = "head_backward"  # in the backward pass of the output layer, on the last stage
    EMBEDDING = "embedding_backward"  # at the end of a microbatch's backward pass, on the first
    OPTIMIZER = "optimizer_step"


ENDED_GRAPHS = 2  # hidden states that `StageShape.ended_graph_bytes` has at the most


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
    dummy_gradient_bytes: float  # with fused gradients: one of each shape of weight
    exported_bytes: float  # of a layer's experts: the first weights, in one piece, while it saves
    reads_optimizer: bool  # from a checkpoint that a run goes on from
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
    rows_bytes: float = 0.0  # of the hidden states that the rank's experts get
    layer_gradients_bytes: float = 0.0  # of the feed-forward weights of a layer, if not fused
    # recomputation
    saved_bytes: float = 0.0  # by all layers of the stage, of one microbatch
    recomputed_bytes: float = 0.0  # built again, of the layer that needs most
    transient_bytes: float = 0.0  # beside, of that layer for a moment
    layer_moment: str = ""  # that moment: an id of planner.layer_moments
    layer_in_forward: bool = False  # whether it is in a forward pass, and not in one done again
    dispatcher_holds_graph: bool = False  # of the last microbatch, to its beginning
    checkpoints_bytes: float = 0.0  # inputs that sparse layers are recomputed from
    whole_checkpoints_bytes: float = 0.0  # of those, inputs of whole layers
    checkpoint_bytes: float = 0.0  # the largest of them
    maps_bytes: float = 0.0  # that the token dispatchers hold
    checkpointed_maps_bytes: float = 0.0  # of those in recomputed layers
    # schedule
    in_flight: float = 0.0  # microbatches whose activations are kept

    @property
    def shard_elements(self) -> float:
        """Trainable elements whose states the rank keeps."""
        p = self.parameters
        return p.trainable_dense / self.dense_shards + p.trainable_expert / self.expert_shards

    @property
    def hidden_states_bytes(self) -> float:
        """Of one microbatch on this rank."""
        return float(self.sharded_tokens * self.hidden * BF16)

    @property
    def embedding_leaf_bytes(self) -> float:
        """With LoRA a microbatch's graph begins at the output of the frozen embedding, and holds it
        and its gradient (mcore-bridge 1.6.5, model/gpt_model.py:174)."""
        return 2 * self.hidden_states_bytes if self.lora and self.is_first else 0.0

    @property
    def ended_graph_bytes(self) -> float:
        """What the graph of the microbatch whose backward pass came last holds, until the forward
        pass after it is over: 1F1B keeps its output until then, and so where it began, at a stage's
        input or at an embedding (megatron-core 0.18.1, pipeline_parallel/schedules.py:
        `output_tensor` of forward_backward_pipelining_without_interleaving)."""
        if self.num_stages == 1 or self.num_virtual_stages > 1:
            return 0.0
        return self.embedding_leaf_bytes if self.is_first else self.hidden_states_bytes

    @property
    def rotary_bytes(self) -> float:
        """Of the rotary embedding of one microbatch, in fp32."""
        return float(self.tokens * self.rotary_elements * FP32)

    @property
    def gathered_bytes(self) -> float:
        """Of its hidden states gathered over TP; 0 without TP."""
        return float(self.tokens * self.hidden * BF16) if self.tensor_parallel else 0.0

    @property
    def logits(self) -> int:
        """Elements of the logits of one microbatch; 0 but on the last stage."""
        return self.tokens * self.vocabulary if self.is_last else 0

    @property
    def chunks_with_input(self) -> int:
        """Chunks of the stage that another stage feeds."""
        return self.num_virtual_stages - self.is_first if self.num_stages > 1 else 0

    @property
    def vocabulary_gradient_bytes(self) -> float:
        """Of the gradient of an embedding or output layer, where it is a tensor of its own."""
        return 0.0 if self.lora else float(self.vocabulary * self.hidden * BF16)


def stage_shape(problem: Problem, layout: Layout, stage: int, states: StateBytes) -> StageShape:
    """What the grid and the split of a layout decide for any rank of a stage."""
    model, workload, settings = problem.model, problem.workload, problem.settings
    parameters = rank_parameters(model, layout, workload, stage)
    copies = fp8_copy_bytes(settings)
    linear = linear_elements(model, layout, workload, stage) if copies else 0
    sharded = settings.use_distributed_optimizer
    return StageShape(
        parameters=parameters,
        states=states,
        weight_copy_bytes=linear * copies,
        dummy_gradient_bytes=_dummy_gradient_bytes(problem, layout, stage),
        exported_bytes=_exported_bytes(problem, layout) if parameters.expert else 0.0,
        reads_optimizer=problem.reads_optimizer,
        dense_shards=layout.dp * layout.cp if sharded else 1,
        expert_shards=expert_shards(problem, layout) if sharded else 1,
        hidden=model.hidden_size,
        vocabulary=-(-model.vocab_size // layout.tp),
        is_first=stage == 0,
        is_last=stage == layout.pp - 1,
        num_stages=layout.pp,
        num_virtual_stages=layout.split.num_virtual_stages,
        tensor_parallel=layout.tp > 1,
        mtp_num_layers=workload.mtp_num_layers,
        has_experts=parameters.expert > 0,
        rotary_elements=rotary_elements(model.attention),
        gates_shared_experts=bool(model.moe and model.moe.shared_expert_gate),
        lora=workload.tuner_type is TunerType.LORA,
        fused_loss=problem.recipe.cross_entropy_loss_fusion,
        fused_gradients=problem.stack.apex,
    )


# From then on Megatron-Core keeps experts apart wherever etp differs from tp (megatron-core 0.19.0,
# extensions/transformer_engine.py: use_expert_pgs).
_APART_SINCE = (0, 19, 0)


def expert_shards(problem: Problem, layout: Layout) -> int:
    """Ranks that share the optimizer states of routed experts.

    Without EP Megatron-Core takes them for dense parameters (megatron-core 0.18.1,
    extensions/transformer_engine.py:2030: allreduce), which makes a difference where etp != tp.
    """
    apart = layout.ep > 1 or problem.stack.megatron_core_version >= _APART_SINCE
    return layout.edp if apart else layout.dp * layout.cp


def _dummy_gradient_bytes(problem: Problem, layout: Layout, stage: int) -> float:
    workload = problem.workload
    if not problem.stack.apex or workload.tuner_type is TunerType.LORA:
        return 0.0
    return distinct_weight_elements(problem.model, layout, workload, stage) * BF16


def _exported_bytes(problem: Problem, layout: Layout) -> float:
    """Of the first weights of all experts that a rank has of a layer (mcore-bridge 1.6.5, bridge/
    gpt_bridge.py: _get_weight joins them; adapters are saved alone)."""
    model = problem.model
    if model.moe is None or problem.workload.tuner_type is TunerType.LORA:
        return 0.0
    local = model.moe.num_experts // layout.ep
    return local * 2 * model.moe.ffn_hidden_size // layout.etp * model.hidden_size * float(BF16)
