"""Sentences about the proof that nothing fits, and ways out."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "nofit.optimizer": Message(
        "Adam's states alone need {bytes} B x {billions}B parameters / {gpus} GPUs = {needed_gib} "
        "GiB on each GPU, whatever the layout, and a GPU has {usable_gib} GiB"
    ),
    "nofit.static": Message(
        "weights, gradients and Adam's states need at least {bytes} B x {billions}B parameters / "
        "{gpus} GPUs = {needed_gib} GiB on each GPU, whatever the layout, and a GPU has "
        "{usable_gib} GiB"
    ),
    "nofit.nearest": Message(
        "the layout that needs least, {layout}, takes {used_gib} of {usable_gib} GiB: {terms}"
    ),
    "nofit.host": Message(
        "the layout that takes least of a node's memory, {layout}, takes {needed_gib} GiB of it, "
        "roughly, for {moment}, and a node has {has_gib} GiB"
    ),
    "nofit.no_states": Message(
        "leave the optimizer's states out of checkpoints: --set no_save_optim=true fits, and "
        "leaves a run that is interrupted nothing to go on with"
    ),
    "nofit.lora": Message("train LoRA: --tuner-type lora fits these GPUs"),
    "nofit.placement": Message("let TP and EP leave NVLink: --placement any fits"),
    "nofit.gpus": Message(
        "use {gpus} GPUs: --gpus {gpus} --nodes {nodes} --global-batch-size {batch} fits"
    ),
    "nofit.shorter": Message("shorten the packs: --seq-length {seq_length} fits"),
    "nofit.error": Message("no layout of {model} fits {gpus} x {gpu} with {tuner}", "{ways_out}"),
}
