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
    "verify.not_asked": Message(
        "{path} does not say what its plan was made for: it was written by a planner of before",
        "plan again with --output-dir, and verify that folder",
    ),
    "verify.failed": Message("rank {rank} of stage {stage} could not be measured: {reason}", ""),
    "verify.left": Message(
        "stage {before} left {size} of the GPU's memory, which stage {stage} would be short of",
        "measure each in a process of its own: plan verify RUN --stage {stage}",
    ),
}
