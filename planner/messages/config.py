"""Sentences about what is wrong with a model's config.json."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "config.not_object": Message(
        "{origin}: a config.json is an object, this is a {kind}",
        "give the config.json of the model, or the folder that holds it",
    ),
    "config.unknown_architecture": Message(
        "{origin}: model type {model_type} is not known", "{suggestion}"
    ),
    "config.unread": Message(
        "{origin}: model type {model_type} cannot be planned, though ms-swift trains it: {why}",
        "`plan models` lists the types that are read",
    ),
    "config.unknown_field": Message(
        "{origin}: field {field} = {value} is not known for {model_type}; "
        "it may change the number of parameters",
        "{suggestion}; remove the field if the model does not depend on it",
    ),
    "config.missing_field": Message(
        "{origin}: {field} is missing", "the file may be cut short: fetch it again"
    ),
    "config.bad_field": Message(
        "{origin}: {field} must be {expected}, not {value}", "correct this value"
    ),
    "config.unsupported_value": Message(
        "{origin}: {field} = {value} is not what the stack builds: {why}",
        "{field} must be {allowed}, or absent",
    ),
    "config.quantized": Message(
        "{origin}: the weights are quantized with {method}, which cannot be fine-tuned in bf16",
        "give the model as published in bf16, or in fp8",
    ),
    "config.inconsistent": Message("{origin}: {equation}", "correct one of the two"),
}
