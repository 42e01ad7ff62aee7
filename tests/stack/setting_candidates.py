"""Of each rule of a setting a layout that breaks it alone, and one that keeps it; short models."""

from dataclasses import replace
from typing import Any

from planner.layout import Recompute
from planner.named_split import named_split
from planner.problem import Sizes
from stack.candidates import Candidate, candidate

QWEN3, DEEPSEEK = "short-qwen3", "short-deepseek"  # 12 layers; 6, and an MTP layer

FIRST, LAST = "decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"
EMBEDDING = "account_for_embedding_in_pipeline_split=true"
LOSS = "account_for_loss_in_pipeline_split=true"
LAYOUT = "pipeline_model_parallel_layout"
AWARE = "use_precision_aware_optimizer=true"
OFFLOAD = "optimizer_cpu_offload=true"
REPLICATED = "use_distributed_optimizer=false"
NORMS = Recompute(granularity="selective", modules=("moe_act",))


def named(
    *settings: str, pp: int = 1, vpp: int = 1, model: str = QWEN3, **options: Any
) -> Candidate:
    """A candidate on a GPU for each stage, with the split that the settings name, if any."""
    parallel = {"pp": pp, "vpp": vpp}
    found = candidate(model, pp, settings=settings, parallel=parallel, **options)
    if not found.settings.names_split:
        return found if pp == 1 else replace(found, sizes=_unsplit(found.sizes))
    layers = found.problem("0.16.1").model.num_layers
    split = named_split(found.settings, layers, pp, vpp)
    return replace(found, sizes=replace(found.sizes, split=split))


def _unsplit(sizes: Sizes) -> Sizes:
    return replace(sizes, split=None)


# rule: (breaks it alone, keeps it)
SETTING_CANDIDATES: dict[str, tuple[Candidate, Candidate]] = {
    "uneven_pipeline": (named(f"{FIRST}=12"), named(f"{FIRST}=7", pp=2)),
    "uneven_accounted": (named(f"{FIRST}=7", LOSS, pp=2), named(EMBEDDING, LOSS, pp=2)),
    "uneven_middle": (named(f"{FIRST}=4", pp=4), named(f"{FIRST}=6", f"{LAST}=2", pp=4)),
    "uneven_over": (named(f"{FIRST}=10", f"{LAST}=6", pp=4), named(f"{LAST}=6", pp=4)),
    "uneven_vpp": (named(f"{FIRST}=3", pp=4, vpp=2), named(f"{FIRST}=6", f"{LAST}=2", pp=4, vpp=2)),
    "accounted_pp": (named(EMBEDDING, pp=2), named(EMBEDDING, LOSS, pp=7)),
    "accounted_vpp": (named(EMBEDDING, LOSS, pp=2, vpp=2), named(EMBEDDING, LOSS, pp=2, vpp=7)),
    "layout_alone": (
        named(f"{LAYOUT}=Et*6|t*6L", EMBEDDING, LOSS, pp=2),
        named(f"{LAYOUT}=Et*5|t*7L", pp=2),
    ),
    "layout_stages": (
        named(f"{LAYOUT}=Et*4|t*4|t*4L", pp=2),
        named(f"{LAYOUT}=E,tt|(t|)*2,t*8L", pp=2, vpp=2),
    ),
    "layout_ends": (named(f"{LAYOUT}=tEt*5|t*6L", pp=2), named(f"{LAYOUT}=E|t*6|t*6|L", pp=4)),
    "layout_end_chunks": (
        named(f"{LAYOUT}=Et*5|t*6|tL|", pp=4),
        named(f"{LAYOUT}=E|t*6|t*5|tL", pp=4),
    ),
    "layout_empty": (
        named(f"{LAYOUT}=Et*5|t*6||tL", pp=4),
        named(f"{LAYOUT}=Et*5|t*5|t|tL", pp=4),
    ),
    "layout_layers": (named(f"{LAYOUT}=Et*6|t*5L", pp=2), named(f"{LAYOUT}=E|t*12L", pp=2)),
    "layout_mtp": (
        named(f"{LAYOUT}=Ettt|tttmL", pp=2, model=DEEPSEEK),
        named(f"{LAYOUT}=Etttt|ttmL", pp=2, model=DEEPSEEK, mtp_num_layers=1),
    ),
    "microbatch_group_vpp": (
        named("microbatch_group_size_per_vp_stage=4", pp=4),
        named("microbatch_group_size_per_vp_stage=6", EMBEDDING, LOSS, pp=2, vpp=7),
    ),
    "precision_aware_adam": (
        named(AWARE, OFFLOAD, "optimizer=sgd"),
        named(OFFLOAD, "optimizer=sgd"),
    ),
    "sgd_distributed": (named("optimizer=sgd"), named("optimizer=sgd", REPLICATED)),
    "precision_aware_distributed": (named(AWARE, REPLICATED), named(REPLICATED)),
    "precision_aware_off": (
        named("exp_avg_dtype=bf16"),
        named(
            *(AWARE, "exp_avg_dtype=bf16", "exp_avg_sq_dtype=fp8"),
            *("main_params_dtype=fp16", "main_grads_dtype=bf16"),
        ),
    ),
    "offload_dtypes": (
        named(OFFLOAD, AWARE, "exp_avg_dtype=bf16"),
        named(OFFLOAD, AWARE, "main_grads_dtype=bf16"),
    ),
    "overlap_distributed": (
        named(REPLICATED, "overlap_param_gather=true"),
        named("overlap_param_gather=true"),
    ),
    "fp8_param": (named("fp8_param_gather=true"), named("fp8_format=hybrid")),
    "capacity_padding": (
        named("moe_pad_expert_input_to_capacity=true"),
        named("moe_pad_expert_input_to_capacity=true", "moe_expert_capacity_factor=1.5"),
    ),
    "fp8_recompute": (
        named("fp8_format=hybrid", recompute=NORMS),
        named("fp8_format=hybrid", "fp8_recipe=blockwise", recompute=NORMS),
    ),
}
