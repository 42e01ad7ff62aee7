"""The arguments of `megatron sft`: one canonical list, complete and explicit.

The names are those of ms-swift 4.6; `planner.dialects` turns them into those of another release.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from itertools import chain

from planner.layout import Layout, PipelineSplit, Recompute
from planner.model_spec import GroupedQueryAttention, ModelSpec
from planner.recipe import Recipe
from planner.settings import AS_PLANNED, Settings
from planner.stack import Stack
from planner.workload import TunerType, Workload

ArgValue = bool | int | float | str | list[str]

# Every flag that may be written, under the headings and in the order of train.yaml.
SECTIONS: dict[str, list[str]] = {
    "model and weights": [
        "model",
        "model_type",
        "template",
        "mcore_model",
        "torch_dtype",
        "finetune",
        "check_model",
    ],
    "what is trained": [
        "tuner_type",
        "lora_rank",
        "lora_alpha",
        "target_modules",
        "lora_dropout",
        "lora_bias",
        "lora_dtype",
        "merge_lora",
        "mtp_num_layers",
    ],
    "parallel layout": [
        "tensor_model_parallel_size",
        "sequence_parallel",
        "context_parallel_size",
        "pipeline_model_parallel_size",
        "virtual_pipeline_model_parallel_size",
        "decoder_first_pipeline_num_layers",
        "decoder_last_pipeline_num_layers",
        "account_for_embedding_in_pipeline_split",
        "account_for_loss_in_pipeline_split",
        "pipeline_model_parallel_layout",
        "microbatch_group_size_per_vp_stage",
        "cp_comm_type",
        "cp_partition_mode",
        "expert_model_parallel_size",
        "expert_tensor_parallel_size",
        "use_distributed_optimizer",
        "overlap_grad_reduce",
        "overlap_param_gather",
    ],
    "batch": ["micro_batch_size", "global_batch_size", "max_length", "packing"],
    "activation recomputation": [
        "recompute_granularity",
        "recompute_method",
        "recompute_num_layers",
        "recompute_modules",
    ],
    "mixture of experts": [
        "moe_token_dispatcher_type",
        "moe_grouped_gemm",
        "moe_permute_fusion",
        "moe_shared_expert_overlap",
        "moe_aux_loss_coeff",
        "moe_router_dtype",
        "moe_router_load_balancing_type",
        "moe_expert_capacity_factor",
        "moe_pad_expert_input_to_capacity",
    ],
    "precision": [
        "fp8_format",
        "fp8_recipe",
        "fp8_param_gather",
        "use_precision_aware_optimizer",
        "main_grads_dtype",
        "main_params_dtype",
        "exp_avg_dtype",
        "exp_avg_sq_dtype",
        "accumulate_allreduce_grads_in_fp32",
        "optimizer_cpu_offload",
        "optimizer_offload_fraction",
    ],
    "kernels": [
        "attention_backend",
        "vit_attn_impl",
        "cross_entropy_loss_fusion",
        "cross_entropy_fusion_impl",
        "gradient_accumulation_fusion",
    ],
    "learning": [
        "optimizer",
        "lr",
        "min_lr",
        "lr_decay_style",
        "lr_warmup_fraction",
        "num_train_epochs",
        "train_iters",
        "seed",
    ],
    "data": [
        "dataset",
        "split_dataset_ratio",
        "dataset_num_proc",
        "load_from_cache_file",
        "dataloader_num_workers",
    ],
    "saving, logging and waiting": [
        "output_dir",
        "add_version",
        "save_steps",
        "save_total_limit",
        "save_safetensors",
        "no_save_optim",
        "no_save_rng",
        "logging_steps",
        "ddp_timeout",
    ],
}
FLAG_ORDER = {flag: place for place, flag in enumerate(chain.from_iterable(SECTIONS.values()))}

# Why a flag has its value, where the recipe does not say it.
NOTES: dict[str, str] = {
    "model_type": "the name of the folder does not tell ms-swift",
    "template": "the name of the folder does not tell ms-swift: check that it is the model's",
    "check_model": "true asks a model hub, which many clusters cannot reach",
    "merge_lora": "true writes the whole model with every checkpoint",
    "sequence_parallel": "a MoE layer with tensor parallelism trains only with it",
    "cross_entropy_fusion_impl": "te, the default of some releases, needs other memory",
    "gradient_accumulation_fusion": "only with apex",
    "vit_attn_impl": "transformers has no flash attention for this vision tower",
    "add_version": "true gives every start another folder, so that nothing can resume",
    "save_safetensors": "with true and no_save_optim, only Hugging Face weights are written",
}


def in_order(args: Mapping[str, ArgValue]) -> dict[str, ArgValue]:
    """The arguments in the order of `SECTIONS`, what else was set behind them."""
    return {flag: args[flag] for flag in sorted(args, key=lambda flag: (_place(flag), flag))}


def _place(flag: str) -> int:
    return FLAG_ORDER.get(flag, len(FLAG_ORDER))


# The heading of flags that stand in no section: those that `--set` hands on.
AS_SET = "as set"


def sections(args: Mapping[str, ArgValue]) -> dict[str, list[str]]:
    """The flags of `args` under their headings, in their order; empty headings are left out."""
    found = {
        heading: [flag for flag in flags if flag in args] for heading, flags in SECTIONS.items()
    }
    found[AS_SET] = [flag for flag in args if flag not in FLAG_ORDER]
    return {heading: flags for heading, flags in found.items() if flags}


def training_args(
    model: ModelSpec,
    layout: Layout,
    workload: Workload,
    stack: Stack,
    recipe: Recipe,
    settings: Settings = AS_PLANNED,
) -> dict[str, ArgValue]:
    """All arguments of `megatron sft` and `megatron pt` but those of a site: model folder, data set
    and output."""
    args: dict[str, ArgValue] = {
        "torch_dtype": "bfloat16",
        "finetune": True,
        "check_model": False,
        "tensor_model_parallel_size": layout.tp,
        "sequence_parallel": layout.sequence_parallel,
        "context_parallel_size": layout.cp,
        "use_distributed_optimizer": True,
        "micro_batch_size": layout.micro_batch_size,
        "global_batch_size": layout.global_batch_size,
        "max_length": workload.seq_length,
        "packing": workload.packing,
        "attention_backend": _attention_backend(model, stack),
        "gradient_accumulation_fusion": stack.apex,
        "add_version": False,
    }
    if model.vision is not None and not model.vision.has_flash_attention:
        args["vit_attn_impl"] = "sdpa"
    if settings.names_split:
        args |= _named_pipeline_args(layout, settings)
    else:
        args |= pipeline_args(layout.split, workload.mtp_num_layers)
    args |= _recompute_args(layout.recompute)
    args |= _recipe_args(recipe)
    args |= _tuner_args(workload, recipe)
    if model.moe:
        has_shared_experts = model.moe.shared_expert_intermediate_size > 0
        args |= _moe_args(layout, recipe, has_shared_experts=has_shared_experts)
    own = {name: value for name, value in settings.given.items() if name not in _RECIPE_FLAGS}
    return in_order(args | own)


_RECIPE_FLAGS = frozenset(each.name for each in fields(Recipe))  # set ones are in the recipe


def _named_pipeline_args(layout: Layout, settings: Settings) -> dict[str, ArgValue]:
    """The split as it was set, word for word."""
    args: dict[str, ArgValue] = {"pipeline_model_parallel_size": layout.pp}
    if layout.vpp > 1 and settings.pipeline_model_parallel_layout is None:
        args["virtual_pipeline_model_parallel_size"] = layout.vpp
    return args


def _attention_backend(model: ModelSpec, stack: Stack) -> str:
    """The stack's, but for attention sinks, which flash attention does not have.

    Source: ms-swift 4.6.0, swift/megatron/model/utils.py:18.
    """
    attention = model.attention
    sinks = isinstance(attention, GroupedQueryAttention) and attention.sinks
    return "fused" if sinks and stack.attention_backend == "flash" else stack.attention_backend


def _recipe_args(recipe: Recipe) -> dict[str, ArgValue]:
    """The recipe's arguments that do not depend on the model or the tuner."""
    values = asdict(recipe)
    del values["reasons"], values["lora_alpha"]
    values.pop("num_train_epochs" if recipe.train_iters else "train_iters")
    return {flag: value for flag, value in values.items() if not flag.startswith("moe_")}


def _tuner_args(workload: Workload, recipe: Recipe) -> dict[str, ArgValue]:
    args: dict[str, ArgValue] = {"tuner_type": workload.tuner_type.value}
    if workload.mtp_num_layers:
        args["mtp_num_layers"] = workload.mtp_num_layers
    if workload.tuner_type is TunerType.LORA:
        assert recipe.lora_alpha is not None, "a recipe for full fine-tuning was given with LoRA"
        args |= {
            "lora_rank": workload.lora_rank,
            "lora_alpha": recipe.lora_alpha,
            "target_modules": ["all-linear"],
            "merge_lora": False,
        }
    return args


def _moe_args(layout: Layout, recipe: Recipe, *, has_shared_experts: bool) -> dict[str, ArgValue]:
    args: dict[str, ArgValue] = {
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.etp,
        "moe_token_dispatcher_type": layout.dispatcher,
        "moe_grouped_gemm": recipe.moe_grouped_gemm,
        "moe_permute_fusion": recipe.moe_permute_fusion,
        "moe_aux_loss_coeff": recipe.moe_aux_loss_coeff,
        "moe_router_dtype": recipe.moe_router_dtype,
    }
    if has_shared_experts:
        # Refused with another dispatcher and with recomputed shared experts
        # (megatron-core 0.16.1, transformer/transformer_config.py:1090 and 1232).
        legal = layout.dispatcher == "alltoall" and "shared_experts" not in layout.recompute.modules
        args["moe_shared_expert_overlap"] = recipe.moe_shared_expert_overlap and legal
    return args


def _recompute_args(recompute: Recompute) -> dict[str, ArgValue]:
    args: dict[str, ArgValue] = {"recompute_granularity": recompute.granularity}
    if recompute.method is not None:
        args["recompute_method"] = recompute.method
    if recompute.num_layers is not None:
        args["recompute_num_layers"] = recompute.num_layers
    if recompute.modules:
        args["recompute_modules"] = list(recompute.modules)
    return args


def pipeline_args(split: PipelineSplit, mtp_num_layers: int = 0) -> dict[str, ArgValue]:
    """The arguments that make Megatron-Core build exactly this split, the plainest that can.

    Nothing for an even split; first and last for equal middle stages; else a layout string.
    """
    sizes = [[end - first for first, end in chunks] for chunks in split.chunks]
    args: dict[str, ArgValue] = {"pipeline_model_parallel_size": split.num_stages}
    if len({size for stage in sizes for size in stage}) == 1:
        if split.num_virtual_stages > 1:
            args["virtual_pipeline_model_parallel_size"] = split.num_virtual_stages
        return args
    ends = _first_and_last([stage[0] for stage in sizes]) if split.num_virtual_stages == 1 else None
    if ends is None:
        return args | {"pipeline_model_parallel_layout": layout_string(split, mtp_num_layers)}
    return args | ends


def _first_and_last(sizes: list[int]) -> dict[str, ArgValue] | None:
    """The sizes of the first and last stage where all others are equal; None where they are not.

    Megatron-Core spreads what is left evenly over the others (0.16.1,
    transformer/transformer_block.py:103-150). It has no way to say an empty stage like this.
    """
    first: dict[str, ArgValue] = {"decoder_first_pipeline_num_layers": sizes[0]}
    last: dict[str, ArgValue] = {"decoder_last_pipeline_num_layers": sizes[-1]}
    if 0 in sizes:
        return None
    if len(set(sizes[1:])) == 1:
        return first
    if len(set(sizes[:-1])) == 1:
        return last
    return first | last if len(set(sizes[1:-1])) == 1 else None


def layout_string(split: PipelineSplit, mtp_num_layers: int = 0) -> str:
    """Megatron-Core's string for a split: E embedding, t decoder layer, m MTP layer, L loss.

    Chunks in the order of their layers: all stages of the first virtual stage, then of the second
    (transformer/pipeline_parallel_layer_layout.py, the same in 0.16.1 and 0.18.1).
    """
    in_layer_order = [chunk for virtual in zip(*split.chunks, strict=True) for chunk in virtual]
    sizes = [end - first for first, end in in_layer_order]
    parts = [f"t*{size}" if size > 1 else "t" * size for size in sizes]
    parts[0] = "E" + parts[0]
    parts[-1] += "m" * mtp_num_layers + "L"
    return "|".join(parts)
