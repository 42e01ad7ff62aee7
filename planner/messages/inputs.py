"""Sentences about what was asked for on the command line."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "input.gpus_nodes": Message(
        "{gpus} GPUs do not divide over {nodes} nodes",
        "give {totals} GPUs, or --nodes {nearest}",
    ),
    "input.out_of_range": Message(
        "{flag} must be from {least} to {most}, not {value}", "use {flag} {nearest}"
    ),
    "input.batch": Message(
        "a global batch of {total} is not made of whole microbatches on any layout of {gpus} GPUs",
        "{suggestion}",
    ),
    "input.nothing_legal": Message(
        "no layout of {model} on {gpus} GPUs is legal; of {enumerated} layouts {count} are not "
        "because {because}",
        "{suggestion}",
    ),
    "input.never_legal": Message(
        "no layout of {model} on {gpus} GPUs is legal; all {enumerated} are not because {because}",
        "{suggestion}",
    ),
    "input.mtp_num_layers": Message(
        "--mtp-num-layers {wanted} is more than the checkpoint of {model} holds: {available}",
        "use --mtp-num-layers {available}",
    ),
    "input.needs": Message("{flag} is only for {needs}", "leave out {flag}, or give {needs}"),
    "input.not_together": Message("{flag} does not go with {other}", "leave out one of them"),
    "input.before_command": Message(
        "{flag} stands before {command}, which does not read it", "put it after {command}"
    ),
    "output.unwritable": Message(
        "standard output cannot be written: {reason}", "send the output somewhere else"
    ),
    "output.exists": Message("{path} exists already", "give another --output, or remove it first"),
    "output.file_unwritable": Message(
        "{path} cannot be written: {reason}", "give another --output"
    ),
    "input.usage": Message("{reason}", "see {help}"),
    "input.old_flag": Message("{hint}", "with plan, {way}"),
    "input.swift_flag": Message("{given} is a flag of ms-swift, not of plan", "with plan, {way}"),
    "input.missing": Message("{flag} is missing", "plan --gpus 16 --nodes 2 --model Qwen3-30B-A3B"),
    "input.choice": Message("{flag} {value} is not one of {choices}", "{suggestion}"),
}
