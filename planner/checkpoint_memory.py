"""What a rank has allocated while weights come in, while it saves, and while it resumes.

Saving decides fit, as steps do (planner.memory); loading takes less than what is there after it.
Resuming does not, as it is only partly understood: what trains is not refused for it, one that can
go on is preferred where both are as fast, and a plan says where it needs more than a GPU has. Swift
is ms-swift 4.6.0, swift/megatron; mc is megatron-core 0.18.1, megatron/core; bridge is mcore-bridge
1.6.5; te is Transformer Engine 2.12.0, transformer_engine/pytorch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from planner.layer_shape import BF16
from planner.stage_shape import StageShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Bytes that are there after building, and between steps."""

    after_build: int
    steady: int


@dataclass(frozen=True, slots=True)
class CheckpointMoment:
    """When a checkpoint is read or written, and what a rank has allocated then."""

    id: str
    when: str
    bytes: Callable[[StageShape, Between], float]
    formula: str
    source: str


def remade_bytes(shape: StageShape) -> float:
    """States that loading a checkpoint makes once more; 0 where none are read."""
    return shape.shard_elements * shape.states.remade if shape.reads_optimizer else 0.0


def _moments(shape: StageShape) -> float:
    return shape.shard_elements * shape.states.moments if shape.reads_optimizer else 0.0


CHECKPOINT_MOMENTS: tuple[CheckpointMoment, ...] = (
    CheckpointMoment(
        "loading",
        "weights come in, before gradients and the optimizer are made",
        lambda s, between: s.parameters.total * BF16,
        "2 B * parameters",
        "swift trainers/base.py:207; bridge bridge/gpt_bridge.py: _set_param, tensor by tensor",
    ),
    CheckpointMoment(
        "saving",
        "a checkpoint is written, after a step",
        lambda s, between: between.steady + s.exported_bytes,
        "what is there between steps + 2 B * first weights of a layer's experts, in one piece, in "
        "full fine-tuning",
        "mc optimizer/distrib_optimizer.py: sharded_param_state_dp_reshardable, without copies; "
        "swift trainers/base.py:866, bridge bridge/gpt_bridge.py: _get_weight",
    ),
    CheckpointMoment(
        "resuming",
        "a checkpoint is read, before the first step",
        lambda s, between: between.after_build + _moments(s) + remade_bytes(s),
        "what is there after building + the moments, twice",
        "mc optimizer/distrib_optimizer.py:921, 1498: made for the checkpoint to be read into; te "
        "optimizers/fused_adam.py: load_state_dict makes others; swift utils/megatron_lm_utils.py: "
        "load_mcore_checkpoint holds both until it is over",
    ),
)


def checkpoint_bytes(shape: StageShape, between: Between) -> dict[str, int]:
    """Bytes allocated at each moment."""
    return {each.id: round(each.bytes(shape, between)) for each in CHECKPOINT_MOMENTS}
