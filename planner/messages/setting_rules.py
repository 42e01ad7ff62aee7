"""Sentences about the rules of `planner.setting_rules`, each under `rule.<its id>`."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "rule.uneven_pipeline": Message(
        "there is no first and no last stage at pp = 1 for {flags}",
        "leave it out, or use pp 2 or more",
    ),
    "rule.uneven_accounted": Message(
        "{uneven} counts layers alone, {accounted} the embedding or the loss with them",
        "leave out {accounted}",
    ),
    "rule.uneven_middle": Message(
        "the first and the last stage leave {layers} layers for the {stages} others, which is not "
        "as many for each",
        "leave a positive multiple of the other stages, and nothing where there are none",
    ),
    "rule.uneven_over": Message(
        "the first and the last stage hold {named} layers of {layers}", "give them fewer"
    ),
    "rule.uneven_vpp": Message(
        "a stage of {size} layers does not divide into vpp = {vpp} chunks",
        "use a multiple of {vpp}, or vpp 1",
    ),
    "rule.accounted_pp": Message(
        "{total} layers, embedding and loss among them, are not a multiple of pp = {pp}",
        "use pp {nearest}",
    ),
    "rule.accounted_vpp": Message(
        "{held} layers of a stage, embedding and loss among them, are not a multiple of "
        "vpp = {vpp}",
        "use vpp {nearest}",
    ),
    "rule.layout_alone": Message(
        "pipeline_model_parallel_layout says the whole split, and {other} another one",
        "leave out {other}",
    ),
    "rule.layout_stages": Message(
        "pipeline_model_parallel_layout has {chunks} chunks, not pp*vpp = {pp}*{vpp}",
        "use pp {nearest_pp} and vpp {nearest_vpp}, or write as many chunks",
    ),
    "rule.layout_ends": Message(
        "pipeline_model_parallel_layout begins with {first!r} and ends with {last!r}, not with its "
        "only E and its only L",
        "write E once, first, and L once, last",
    ),
    "rule.layout_end_chunks": Message(
        "E does not stand in the first of {chunks} chunks, or L not in the last, where "
        "Megatron-Core builds them all the same",
        "move E to the first chunk and L to the last",
    ),
    "rule.layout_empty": Message(
        "chunk {place} of {chunks} holds nothing, and ms-swift ends with a division by zero there",
        "give it a layer, or leave it out",
    ),
    "rule.layout_layers": Message(
        "pipeline_model_parallel_layout has {found} t for {layers} decoder layers",
        "write {layers} t",
    ),
    "rule.layout_mtp": Message(
        "pipeline_model_parallel_layout has {found} m for {mtp} MTP layers",
        "write {mtp} m before the L, or give --mtp-num-layers {found}",
    ),
    "rule.microbatch_group_vpp": Message(
        "a group of {group} microbatches means nothing without virtual pipelines",
        "leave out microbatch_group_size_per_vp_stage, or use vpp 2 or more",
    ),
    "rule.precision_aware_adam": Message(
        "use_precision_aware_optimizer is for Adam, not for {optimizer}",
        "leave it out, or use optimizer adam",
    ),
    "rule.sgd_distributed": Message(
        "the distributed optimizer has no {optimizer}", "set use_distributed_optimizer=false"
    ),
    "rule.precision_aware_distributed": Message(
        "use_precision_aware_optimizer needs the distributed optimizer",
        "set use_distributed_optimizer=true",
    ),
    "rule.precision_aware_off": Message(
        "{flag} = {value} needs the precision-aware optimizer",
        "set use_precision_aware_optimizer=true",
    ),
    "rule.offload_dtypes": Message(
        "{flag} = {value} does nothing with optimizer_cpu_offload, whose states are fp32",
        "leave out {flag}",
    ),
    "rule.overlap_distributed": Message(
        "overlap_param_gather does nothing without the distributed optimizer",
        "set overlap_param_gather=false",
    ),
    "rule.fp8_param": Message(
        "fp8_param_gather needs matrix products in fp8", "set fp8_format=hybrid"
    ),
    "rule.fp8_gpu": Message(
        "the fp8 recipe {recipe} does not run on {gpu} of compute capability {capability}",
        "{instead}",
    ),
    "rule.host_memory": Message(
        "the offloaded optimizer and the processes need {needed} GiB of each host, which has "
        "{available} GiB",
        "take more nodes, or offload a smaller optimizer_offload_fraction",
    ),
    "rule.fp8_dims": Message(
        "a matrix of size {size} is not a multiple of {block}, as the fp8 recipe {recipe} needs",
        "lower tp or etp, or leave out fp8_format",
    ),
    "rule.capacity_padding": Message(
        "moe_pad_expert_input_to_capacity pads to a capacity that is not said",
        "set moe_expert_capacity_factor=1.0 or more",
    ),
    "rule.fp8_recompute": Message(
        "{modules} cannot be recomputed alone with delayed scaling",
        "leave it out, or set fp8_recipe=tensorwise",
    ),
}
