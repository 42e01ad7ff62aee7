"""What recomputation and the schedule fill into a stage's shape, and when it may be fullest."""

from planner.layer_view import StageActivations
from planner.memory import MOST_IN_FLIGHT
from planner.stage_shape import ENDED_GRAPHS, Moment, StageShape


def fill_schedule(
    shape: StageShape, kept: StageActivations, num_virtual_stages: int, in_flight: float
) -> None:
    """Fill in what the schedule decides: schedules share the shape."""
    shape.num_virtual_stages, shape.in_flight = num_virtual_stages, in_flight
    rotary = num_virtual_stages * shape.rotary_bytes if kept.whole_layers else 0.0
    shape.saved_bytes = kept.saved + rotary


def fill(shape: StageShape, kept: StageActivations) -> None:
    """Fill in what recomputation decides."""
    shape.checkpoint_bytes = kept.checkpoint
    shape.checkpoints_bytes, shape.whole_checkpoints_bytes = (
        kept.checkpoints,
        kept.whole_checkpoints,
    )
    shape.recomputed_bytes, shape.transient_bytes = kept.recomputed, kept.transient
    shape.layer_moment, shape.layer_in_forward = kept.moment, kept.in_forward
    shape.dispatcher_holds_graph = kept.holds_graph
    shape.maps_bytes, shape.checkpointed_maps_bytes = kept.maps, kept.checkpointed_maps


def candidates(shape: StageShape, sizes: list[tuple[Moment, float]]) -> list[tuple[Moment, float]]:
    """Moments at which a stage may be at its fullest, whatever the schedule adds to them: the
    fullest of those to which it adds most, those of them that it may lift above that one, and
    others that are fuller before it does."""
    most = max(size for moment, size in sizes if moment in MOST_IN_FLIGHT)
    lifted = most - ENDED_GRAPHS * shape.hidden_states_bytes
    return [each for each in sizes if each[1] > (lifted if each[0] in MOST_IN_FLIGHT else most)]
