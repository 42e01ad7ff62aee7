"""Sentences about `--set NAME=VALUE`."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "setting.form": Message(
        "--set takes NAME=VALUE, not {text}", "for example --set optimizer_cpu_offload=true"
    ),
    "setting.unknown": Message(
        "{name} is not an argument of megatron sft of ms-swift 4.6", "{suggestion}"
    ),
    "setting.planned": Message("{name} is planned, not set", "{why}"),
    "setting.site": Message("{name} is said when scripts are written", "use {why}"),
    "setting.refused": Message("{name} cannot be set: {why}", "{instead}"),
    "setting.refused_value": Message(
        "{name} = {value} is not planned: {why}", "what is modelled: {known}"
    ),
    "setting.choice": Message("{name} = {value} is not one of {choices}", "{suggestion}"),
    "setting.value": Message("{name} must be {expected}, not {value}", "correct this value"),
    "setting.twice": Message("{name} is set twice", "keep one of the two"),
    "setting.both": Message("{name} and {other} say the same", "give one of the two"),
    "setting.needs": Message(
        "{name} does nothing without {needs}", "leave out {name}, or give {needs}"
    ),
    "setting.conflict": Message("ms-swift stops at {name} {where}: {why}", "{instead}"),
    "setting.since": Message(
        "ms-swift {ms_swift} has no argument {name}: it came with {since}",
        "leave it out, or plan for a newer ms-swift with --stack",
    ),
    "setting.layout": Message(
        "pipeline_model_parallel_layout {text} cannot be read: {reason}",
        "write E, t for a decoder layer, m for an MTP layer, L, and | between chunks, "
        "for example Et*3|(tt|)*2tL",
    ),
    "setting.target_modules": Message("{name} is not a linear layer of {model}", "{suggestion}"),
    "setting.not_modelled": Message("{name} is not planned {where}: {why}", "{instead}"),
}
