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
    "reason.core_attn_costs": Message(
        "recomputing core_attn costs {mib} MiB a layer and microbatch here, and gives up nothing: "
        "with grouped-query attention all of q, k and v is kept besides what attention keeps; "
        "--recompute none, or --recompute-modules without it, takes less"
    ),
    "reason.host": Message(
        "{moment} takes {needed_gib} GiB of a node's memory, roughly, which has {has_gib}: "
        "{instead}"
    ),
    "reason.host_assumed": Message(
        "{moment} takes {needed_gib} GiB of a node's memory, roughly, and {topology} assumes "
        "{has_gib}: say what yours has, by host_memory_gib in a topology of your own that is like "
        "this one; {instead}"
    ),
    "host.no_states": Message(
        "--set no_save_optim=true takes {gib}, and leaves a run that is interrupted nothing to go "
        "on with"
    ),
    "host.more_nodes": Message("{nodes} nodes share it out"),
    "host.more_memory": Message("take nodes with more memory"),
    "host.smaller_parts": Message(
        "choose a plan whose GPUs have smaller parts of the weights, by more tp, pp or ep"
    ),
    "reason.cannot_save": Message(
        "it trains, but stage {stage} cannot save: {needed_gib} GiB where a GPU has {usable_gib}, "
        "as the first weights of a layer's experts are written in one piece: choose a plan with "
        "more ep"
    ),
    "reason.cannot_resume": Message(
        "it trains, but an interrupted run cannot go on: reading a checkpoint takes {needed_gib} "
        "GiB on stage {stage} where a GPU has {usable_gib}, as the optimizer's moments are made "
        "twice: choose a plan that takes {less_gib} GiB less then, or go on without them and with "
        "the learning rate from its beginning, by --set no_load_optim=true"
    ),
    "reason.may_not_resume": Message(
        "an interrupted run may not be able to go on: the one run that was measured, a small one, "
        "reserved nearly as much more after resuming as the optimizer's moments take, which is not "
        "explained; with all of them stage {stage} takes {needed_gib} GiB where a GPU has "
        "{usable_gib}: try it, or choose a plan that takes {less_gib} GiB less, or go on without "
        "them and with the learning rate from its beginning, by --set no_load_optim=true"
    ),
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
