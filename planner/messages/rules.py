"""Sentences about the rules of `planner.constraints`, each under `rule.<its id>`."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "rule.world_dense": Message(
        "world size {world} is not a multiple of tp*cp*pp = {tp}*{cp}*{pp} = {divisor}",
        "make tp*cp*pp {nearest}, or use {nearest_world} GPUs",
    ),
    "rule.world_expert": Message(
        "world size {world} is not a multiple of etp*ep*pp = {etp}*{ep}*{pp} = {divisor}",
        "make etp*ep*pp {nearest}, or use {nearest_world} GPUs",
    ),
    "rule.heads_tp": Message(
        "{heads} attention heads are not a multiple of tp = {tp}", "lower tp to {nearest}"
    ),
    "rule.query_groups_tp": Message(
        "{groups} query groups are neither a multiple nor a divisor of tp = {tp}",
        "lower tp to {nearest}",
    ),
    "rule.query_groups_tp_strict": Message(
        "{groups} query groups are not a multiple of tp = {tp}, as megatron-core before 0.16 needs",
        "lower tp to {nearest}",
    ),
    "rule.ffn_tp": Message(
        "a feed-forward size of {size} is not a multiple of tp = {tp}", "lower tp to {nearest}"
    ),
    "rule.dense_model": Message(
        "{model} has no experts to divide by ep = {ep} and etp = {etp}", "use ep 1 and etp 1"
    ),
    "rule.lora_etp": Message(
        "LoRA does not divide experts by etp = {etp}", "use etp 1, or train all parameters"
    ),
    "rule.bias_etp": Message(
        "etp = {etp}, but the experts of {model} have biases, which Megatron-Core keeps whole",
        "set expert_tensor_parallel_size to 1",
    ),
    "rule.experts_ep": Message(
        "{experts} experts are not a multiple of ep = {ep}", "lower ep to {nearest}"
    ),
    "rule.expert_ffn_etp": Message(
        "an expert's feed-forward size of {size} is not a multiple of etp = {etp}",
        "lower etp to {nearest}",
    ),
    "rule.experts_without_ep": Message(
        "at ep = 1 Megatron-Core reduces gradients of experts over the ranks of dense layers, and "
        "with tp = {tp} and etp = {etp} {effect}",
        "use tp {nearest_tp}, ep {nearest_ep} and etp {nearest_etp}",
    ),
    "rule.sequence_shards": Message(
        "sequence length {length} is not a multiple of tp*{halves}*cp = {tp}*{halves}*{cp} = "
        "{divisor}",
        "use a sequence length of {nearest}",
    ),
    "rule.tp_nvlink": Message(
        "a tensor-parallel group of {size} GPUs leaves its NVLink domain of {domain}",
        "lower tp to {nearest}, or allow it with --placement any",
    ),
    "rule.ep_nvlink": Message(
        "an expert-parallel group of etp*ep = {size} GPUs leaves its NVLink domain of {domain}",
        "lower etp*ep to {nearest}, or allow it with --placement any",
    ),
    "rule.mtp_available": Message(
        "{mtp} MTP layers are to be trained, but the checkpoint of {model} holds {available}",
        "train at most {available}",
    ),
    "rule.dispatcher": Message(
        "the dispatcher {dispatcher} does not run on the stack {stack}", "use one of: {known}"
    ),
    "rule.layers": Message(
        "{layers} layers are fewer than the pp*vpp = {pp}*{vpp} = {chunks} chunks that hold them",
        "lower pp*vpp to {layers} or less",
    ),
    "rule.split_sum": Message(
        "the stages leave out {missing} of the {layers} layers and hold {extra} too many",
        "put every layer on one stage, once",
    ),
    "rule.vpp_pp": Message(
        "vpp = {vpp} has no pipeline to interleave at pp = 1", "use vpp 1, or pp 2 or more"
    ),
    "rule.batch": Message(
        "global batch size {total} is not a multiple of micro-batch size*dp = {micro}*{dp} = "
        "{divisor}",
        "use a global batch size of {nearest}",
    ),
    "rule.vpp_microbatches": Message(
        "{microbatches} microbatches are not a positive multiple of a group of {group}, at least "
        "pp = {pp}, as vpp = {vpp} needs",
        "use a global batch size of {nearest}, or vpp 1",
    ),
    "rule.recompute_modules": Message(
        "{module} is not a module that can be recomputed", "use some of: {known}"
    ),
    "rule.recompute_layernorm": Message(
        "layernorm of a MoE model cannot be recomputed with megatron-core {megatron_core}",
        "leave layernorm out of the modules to recompute",
    ),
    "rule.recompute_mla": Message(
        "mla_up_proj is of multi-latent attention, which {model} does not have",
        "leave mla_up_proj out of the modules to recompute",
    ),
    "rule.recompute_num_layers": Message(
        "{number} layers to recompute are not between 1 and the {most} layers of the longest chunk",
        "recompute {nearest}",
    ),
}
