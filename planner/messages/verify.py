"""Sentences about measuring a rank."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "verify.no_stack": Message(
        "the training stack is not installed here: {missing} cannot be imported",
        "run this in the training image, or install moe-planner[train]",
    ),
    "verify.no_gpu": Message(
        "this machine has no GPU that torch can use", "run this on one of the run's machines"
    ),
    "verify.no_config": Message(
        "the model's {path} cannot be read: {reason}",
        "run this where the model folder of the run is",
    ),
    "verify.no_stage": Message("the run has no stage {stage}", "give a stage from 0 to {last}"),
    "verify.failed": Message("rank {rank} could not be measured: {reason}", ""),
}
