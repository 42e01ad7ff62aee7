"""What a run wants converted, and by which commands that can be."""

from enum import StrEnum

from convert.sizes import trained_mtp_layers
from planner.flag_history import MEGATRON, new_flags
from planner.run import Run
from planner.workload import TunerType

CARRY = "save_missing_weights"


class Direction(StrEnum):
    """Which way weights are converted; ms-swift's flag for it."""

    TO_MCORE = "to_mcore"
    TO_HF = "to_hf"


def is_lora(run: Run) -> bool:
    """Whether a run trains adapters."""
    return TunerType(run.plan.args["tuner_type"]) is TunerType.LORA


def has_single_process(run: Run, direction: Direction) -> bool:
    """Whether `swift export` can convert too: it merges no adapters, knows no MTP layers and
    carries none over."""
    back = direction is Direction.TO_HF
    return trained_mtp_layers(run) == 0 and not (back and (is_lora(run) or carries_mtp(run)))


def carries_mtp(run: Run) -> bool:
    """Whether layers for multi-token prediction that were not trained are carried over as they
    are.

    Of a quantised model they would come in another type than the rest.
    """
    has_layers = run.model.mtp_num_layers > 0 and trained_mtp_layers(run) == 0
    known = new_flags().has(CARRY, run.stack.dialect, MEGATRON)
    return has_layers and known and run.model.checkpoint_quantization is None


def precision_needs(run: Run) -> str:
    """What the comparison of logits needs besides memory.

    Source: mcore-bridge 1.0.2 to 1.6.5, mcore_bridge/model/rope.py (1.6.5: :116) puts a function
    under "default" into transformers' table, which transformers 5 prefers to the model's own
    (5.19.0, modeling_utils.py:2355) and which asks for a field that has moved.
    """
    return "with transformers 5 the plugin of docs/converting.md" if run.stack.mcore_bridge else ""
