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
    "nofit.lora": Message("train LoRA: --tuner-type lora fits these GPUs"),
    "nofit.placement": Message("let TP and EP leave NVLink: --placement any fits"),
    "nofit.gpus": Message(
        "use {gpus} GPUs: --gpus {gpus} --nodes {nodes} --global-batch-size {batch} fits"
    ),
    "nofit.shorter": Message("shorten the packs: --seq-length {seq_length} fits"),
    "nofit.error": Message("no layout of {model} fits {gpus} x {gpu} with {tuner}", "{ways_out}"),
}
