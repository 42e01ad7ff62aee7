"""Sentences about why a layout was chosen."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "reason.ep_inside": Message(
        "experts are {percent} % of the weights: ep{ep} leaves {local} of {experts} on each GPU, "
        "and their all-to-all stays inside NVLink"
    ),
    "reason.ep_across": Message(
        "experts are {percent} % of the weights: ep{ep} leaves {local} of {experts} on each GPU; "
        "their all-to-all crosses nodes"
    ),
    "reason.ep_pcie": Message(
        "experts are {percent} % of the weights: ep{ep} leaves {local} of {experts} on each GPU; "
        "their all-to-all goes over PCIe inside a host"
    ),
    "reason.pp_across": Message(
        "pp{pp} sends {mib} MiB a microbatch between nodes, the least of all groups"
    ),
    "reason.pp_inside": Message("pp{pp} sends {mib} MiB a microbatch between neighbours"),
    "reason.no_tp": Message("tp1: every GPU computes whole layers without gathering tokens"),
    "reason.tp": Message("tp{tp} divides attention, activations and logits by {tp}"),
    "reason.no_recompute": Message("nothing is recomputed: all activations fit"),
    "reason.recompute_asked": Message("recompute {recompute}, as asked for"),
    "reason.recompute": Message("recomputing {recompute} is the cheapest choice that fits"),
    "reason.possible_elsewhere": Message(
        "possible with {what} ({flag}), which this stack lacks: {seconds} s a step, "
        "{percent} % less"
    ),
    "reason.not_trained": Message(
        "ms-swift's Megatron commands cannot train {model} today: {why}; no scripts can be written"
    ),
    "reason.tied": Message(
        "layouts tied with this one: {others}, as the difference between two may be off by "
        "{percent} %; try this and plan {number} ({layout}), which spends {contrast}"
    ),
    "reason.limit": Message(
        "stage {stage} is the fullest, {percent} % of a GPU at {moment}: {terms}"
    ),
}
