"""Every sentence that the program says to a user about a mistake or a choice: an id, a text and a
way out.

Texts are `str.format` templates; `planner.errors` and `planner.plan.Reason` fill in the values.
Lower case, no trailing dot: they are shown after a prefix and can be translated by replacing this
table.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """`text` says what is wrong with which values; `fix` says the nearest thing that works (may be
    empty)."""

    text: str
    fix: str = ""


MESSAGES: dict[str, Message] = {
    # -- files that people write -------------------------------------------------------------------
    "file.unreadable": Message(
        "{path} cannot be read: {reason}", "check the path and its permissions"
    ),
    "file.not_yaml": Message(
        "{path} is not valid YAML: {reason}", "mend the file at the place named"
    ),
    "file.not_json": Message(
        "{path} is not valid JSON: {reason}", "the file may be cut short: fetch it again"
    ),
    "file.too_deep": Message(
        "{path} is nested too deep to be read", "check that it is the file that you mean"
    ),
    "file.duplicate_key": Message(
        "{path}: key {key} stands twice in one object", "keep one of the two"
    ),
    "file.unknown_key": Message("{path}: unknown key {key!r}", "{suggestion}"),
    "file.missing_key": Message(
        "{path}: {key} is missing", "add it; a file that comes with the planner shows the form"
    ),
    "file.bad_value": Message("{path}: {key}: {reason} (got {value})", "correct this value"),
    # -- config.json of a model -------------------------------------------------------------------
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
    # -- names ------------------------------------------------------------------------------------
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
    # -- releases of ms-swift ----------------------------------------------------------------------
    "flag.unknown_release": Message(
        "the arguments of ms-swift {release} are not known", "use a stack with one of {known}"
    ),
    "flag.too_new": Message(
        "ms-swift {release} has no --{flag}, which came with {since}",
        "use a stack with ms-swift {since} or later, or do without --{flag}",
    ),
    "flag.value_too_new": Message(
        "ms-swift {release} does not take --{flag} {value}, which came with {since}",
        "use a stack with ms-swift {since} or later, or another value",
    ),
    "hint.renamed": Message("--{old} is called --{now} since ms-swift {since}"),
    "hint.inverted": Message(
        "--{old} is called --{now} since ms-swift {since}, with the opposite sense"
    ),
    "hint.converted": Message("--{old} became --{now} with ms-swift {since}: {converted}"),
    "hint.removed": Message("--{old} is gone since ms-swift {since}: {instead}"),
    "way.option": Message("use {option}"),
    "way.searched": Message("leave it to the search, or give {option} to plan check"),
    "way.recipe": Message("set {flag} in the recipe, a YAML file for --recipe"),
    "way.site": Message("set {flag} in the site, a YAML file for --site"),
    "way.script": Message("give it to the script that plan writes: bash train.sh --{flag} VALUE"),
    "way.none": Message("leave it out"),
    "way.elsewhere": Message("{flag} is a flag of ms-swift: with plan, {way}"),
    # -- runs ------------------------------------------------------------------------------------
    "run.not_trained": Message(
        "no scripts are written for {model}: ms-swift's Megatron commands cannot train it ({why})",
        "leave --output-dir out: the plan itself is printed",
    ),
    "run.needs": Message(
        "scripts need {flags}",
        "--model-path FOLDER-OR-HUB-ID --dataset FILE-OR-HUB-ID, as the nodes see them; "
        "or a site file",
    ),
    "run.bad_path": Message(
        "{flag} {path!r} cannot stand on a command line",
        "give a path that is not empty and does not begin with a hyphen, for example ./-name",
    ),
    "run.folder_exists": Message(
        "{path} exists already", "give another --output-dir, or remove it first"
    ),
    "run.folder_unwritable": Message(
        "{path} cannot be written: {reason}", "give another --output-dir"
    ),
    "run.not_a_run": Message(
        "{path} is not the run.json of a run: {reason}", "plan again with --output-dir"
    ),
    "run.planned_with": Message(
        "{path} was planned with {variable}={planned}, not {given}",
        "give another folder (RUN= of make), or leave {variable} out",
    ),
    "run.no_script": Message(
        "{path} has no {script}",
        "a run planned with --load direct converts nothing before training; "
        "moe-launch render writes missing scripts",
    ),
    "dlc.too_large": Message(
        "the PAI-DLC job takes {size} bytes, more than the {limit} that PAI-DLC accepts",
        "move long values of env to a file on the shared storage",
    ),
    "launch.gpus_missing": Message(
        "this machine has {available} GPUs, the plan wants {wanted} on each of {nodes} nodes: "
        "{gpu}",
        "run this on such a machine, or plan for this one",
    ),
    # -- topologies that people write or detect ----------------------------------------------------
    "trap.sparse_flops": Message(
        "{key} = {value} TFLOP/s is what the vendor prints for sparse matrices, which training "
        "does not use",
        "dense is {likely}",
    ),
    "trap.bidirectional_nvlink": Message(
        "{key} = {value} GB/s is what the vendor prints for both directions together",
        "one direction is {likely}",
    ),
    "trap.label_memory": Message(
        "{key} = {value} MiB is the label of the GPU or nvidia-smi's total, not torch's "
        "total_memory",
        "torch sees {likely}",
    ),
    "trap.total_gbits": Message(
        "{key} = {value} Gbit/s is more than any NIC has, and looks like the sum of all",
        "one of {nics} would have {likely}",
    ),
    "trap.front_end_nic": Message(
        "{key} = {value} NICs for {gpus} GPUs: the front end or the storage seems to be counted",
        "{likely} would carry training",
    ),
    "trap.nic_over_pcie": Message(
        "{key} = {value} Gbit/s is more than the GPU's PCIe of {lanes} Gbit/s takes",
        "{likely} is what a GPU gets",
    ),
    "detect.unreadable": Message(
        "{path} is not the output of {command}: {reason}",
        "save all that the command prints to the file",
    ),
    "detect.no_gpus": Message(
        "the inputs name no GPU", "give --nvidia-smi-topo or --nccl-topo, best with --nvidia-smi"
    ),
    "detect.exists": Message("{path} exists already", "give another --output, or remove it first"),
    "detect.unwritable": Message("{path} cannot be written: {reason}", "give another --output"),
    "environment.nvidia_smi": Message(
        "nvidia-smi does not work on this machine: {reason}",
        "run this on a node with GPUs, or give files: --nvidia-smi-topo, --nvidia-smi, "
        "--ibdev2netdev, --nccl-topo",
    ),
    # -- measuring a rank --------------------------------------------------------------------------
    "verify.no_stack": Message(
        "the training stack is not installed here: {missing} cannot be imported",
        "run this in the training image, or install moe-planner[train]",
    ),
    "verify.no_gpu": Message(
        "this machine has no GPU that torch can use", "run this on one of the run's machines"
    ),
    "verify.no_config": Message(
        "the model's {path} cannot be read: {reason}",
        "run this where the model folder of the run is",
    ),
    "verify.no_stage": Message("the run has no stage {stage}", "give a stage from 0 to {last}"),
    "verify.failed": Message("rank {rank} could not be measured: {reason}", ""),
    # -- what was asked for ----------------------------------------------------------------------
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
    "input.mtp_num_layers": Message(
        "--mtp-num-layers {wanted} is more than the checkpoint of {model} holds: {available}",
        "use --mtp-num-layers {available}",
    ),
    "input.needs": Message("{flag} is only for {needs}", "leave out {flag}, or give {needs}"),
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
    "environment.extra": Message(
        "this needs the package {package}, which is not installed", "pip install {package}"
    ),
    # -- what an image holds -----------------------------------------------------------------------
    "freeze.empty": Message(
        "{path} names no package", "give the text of pip freeze, pip list or conda list"
    ),
    "stack.incomplete": Message(
        "no stack can be written: {path} does not say the version of {packages}",
        "install it, or write the stack by hand with based_on: and the versions that you know",
    ),
    "image.not_there": Message("{package} is not installed: nothing can train"),
    "image.no_version": Message("{package} does not say its version"),
    "image.too_old": Message(
        "ms-swift {version} is older than {oldest}, the oldest whose arguments are known"
    ),
    "image.unknown_release": Message(
        "the arguments of ms-swift {version} are not known; those of {newest} or before are taken"
    ),
    "image.other_patch": Message(
        "the arguments of ms-swift {version} are taken to be those of {newest}, which were read"
    ),
    "image.twice": Message(
        "{package} is there in versions {versions}: which one runs depends on sys.path"
    ),
    "image.another_apex": Message("apex {version} is not NVIDIA's, which calls itself 0.1"),
    # -- why a layout was chosen -----------------------------------------------------------------
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
    "reason.not_trained": Message(
        "ms-swift's Megatron commands cannot train {model} today: {why}; no scripts can be written"
    ),
    "reason.limit": Message(
        "stage {stage} is the fullest, {percent} % of a GPU at {moment}: {terms}"
    ),
    # -- nothing fits ----------------------------------------------------------------------------
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
    # -- rules of planner.constraints --------------------------------------------------------------
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
        "{microbatches} microbatches are not a positive multiple of pp = {pp}, as vpp = {vpp} "
        "needs",
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
