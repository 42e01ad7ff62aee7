"""Sentences about names that are not known."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "model.unplanned_attention": Message(
        "{model} has {attention}, whose memory and time are not modelled: no layout can be planned",
        "`plan models {model}` shows its parameters by part",
    ),
    "model.unknown": Message(
        "model {name} is not bundled, not a folder or file here, and not in the local hub caches",
        "{suggestion}; or give a folder that holds config.json; or allow the "
        "network with --allow-download",
    ),
    "model.download_failed": Message(
        "the config.json of {name} could not be fetched ({reasons})",
        "check the model id and the network, or give a folder that holds config.json",
    ),
    "topology.unknown": Message(
        "topology {name!r} is not known", "{suggestion}; or give the path of a YAML file"
    ),
    "topology.refused": Message(
        "topology {name} cannot be planned for: {reason}",
        "name another (plan topology list), or write a YAML file if you know its numbers",
    ),
    "topology.fewer_gpus": Message(
        "a host of {name} has {gpus} GPUs, not {wanted}",
        "use {nearest} nodes, or another topology",
    ),
    "stack.unknown": Message(
        "stack {name!r} is not known", "{suggestion}; or give the path of a YAML file"
    ),
    "stack.too_old": Message(
        "{path}: ms-swift {version} is older than {oldest}, the oldest whose arguments are known",
        "use ms-swift {oldest} or later",
    ),
    "recipe.unknown": Message(
        "recipe {name!r} is not known", "{suggestion}; or give the path of a YAML file"
    ),
}
