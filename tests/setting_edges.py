"""Of each rule of a setting: what breaks it alone, and what stands beside it and breaks none."""

from dataclasses import replace
from typing import Any

from problems import GIB, problem

from planner.layout import PipelineSplit, Recompute
from planner.problem import Problem, Sizes

Edge = tuple[Problem, Sizes]


def edge(*settings: str, **changes: Any) -> Edge:
    """Sizes of Qwen3-30B-A3B, 48 layers, on 16 GPUs under these settings."""
    names = Sizes.__dataclass_fields__.keys()
    sizes = {name: changes.pop(name) for name in list(changes) if name in names}
    return problem(settings=settings, **changes), Sizes(world_size=16, **sizes)


def narrower(found: Edge, **changes: int) -> Edge:
    """The same with other sizes of the experts."""
    stated, sizes = found
    assert stated.model.moe is not None
    moe = replace(stated.model.moe, **changes)
    return replace(stated, model=replace(stated.model, moe=moe)), sizes


def on_small_hosts(found: Edge, host_memory_bytes: int) -> Edge:
    """The same on hosts with so much memory."""
    stated, sizes = found
    cluster = replace(stated.cluster, host_memory_bytes=host_memory_bytes)
    return replace(stated, cluster=cluster), sizes


ONE_STAGE = PipelineSplit((((0, 48),),))
FIRST, LAST = "decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"
EMBEDDING = "account_for_embedding_in_pipeline_split=true"
LOSS = "account_for_loss_in_pipeline_split=true"
LAYOUT = "pipeline_model_parallel_layout"
AWARE = "use_precision_aware_optimizer=true"
OFFLOAD = "optimizer_cpu_offload=true"
NORMS = Recompute(granularity="selective", modules=("layernorm",))

SETTING_EDGES: dict[str, tuple[Edge, Edge]] = {
    "uneven_pipeline": (edge(f"{FIRST}=24"), edge(f"{FIRST}=24", pp=2)),
    "uneven_accounted": (edge(f"{FIRST}=24", LOSS, pp=2), edge(LOSS, EMBEDDING, pp=2)),
    "uneven_middle": (edge(f"{FIRST}=10", pp=8), edge(f"{FIRST}=6", pp=8)),
    "uneven_over": (
        edge(f"{FIRST}=30", f"{LAST}=24", pp=8),
        edge(f"{FIRST}=6", f"{LAST}=6", pp=8),
    ),
    "uneven_vpp": (edge(f"{FIRST}=9", pp=4, vpp=2), edge(f"{FIRST}=12", pp=4, vpp=2)),
    "accounted_pp": (edge(EMBEDDING, pp=2), edge(EMBEDDING, LOSS, pp=2)),
    "accounted_vpp": (edge(EMBEDDING, LOSS, pp=2, vpp=2), edge(EMBEDDING, LOSS, pp=2)),
    "layout_alone": (
        edge(f"{LAYOUT}=Et*24|t*24L", LOSS, EMBEDDING, pp=2),
        edge(f"{LAYOUT}=Et*24|t*24L", pp=2),
    ),
    "layout_stages": (
        edge(f"{LAYOUT}=Et*16|t*16|t*16L", pp=2),
        edge(f"{LAYOUT}=Et*8|(t*8|)*2(t*8|)*2t*8L", pp=2, vpp=3),
    ),
    "layout_ends": (
        edge(f"{LAYOUT}=tEt*23|t*24L", pp=2),
        edge(f"{LAYOUT}=E|t*24|t*24|L", pp=4),
    ),
    "layout_end_chunks": (
        edge(f"{LAYOUT}=|Et*24|t*24L|", pp=4),
        edge(f"{LAYOUT}=E,t*12|t*12|t*24|L", pp=4),
    ),
    "layout_empty": (
        edge(f"{LAYOUT}=Et*24||t*24|L", pp=4),
        edge(f"{LAYOUT}=E|t*24|t*24|L", pp=4),
    ),
    "layout_layers": (edge(f"{LAYOUT}=Et*24|t*23L", pp=2), edge(f"{LAYOUT}=Et|t*47L", pp=2)),
    "layout_mtp": (
        edge(f"{LAYOUT}=Et*24|t*24mL", pp=2),
        edge(f"{LAYOUT}=Et*30|t*31mL", pp=2, model="DeepSeek-V3", mtp_num_layers=1),
    ),
    "microbatch_group_vpp": (
        edge("microbatch_group_size_per_vp_stage=4", pp=4),
        edge("microbatch_group_size_per_vp_stage=4", pp=4, vpp=2),
    ),
    "precision_aware_adam": (edge(AWARE, OFFLOAD, "optimizer=sgd"), edge(AWARE, OFFLOAD)),
    "sgd_distributed": (
        edge("optimizer=sgd"),
        edge("optimizer=sgd", "use_distributed_optimizer=false"),
    ),
    "precision_aware_distributed": (
        edge(AWARE, "use_distributed_optimizer=false"),
        edge("use_distributed_optimizer=false"),
    ),
    "precision_aware_off": (edge("exp_avg_dtype=bf16"), edge("exp_avg_dtype=bf16", AWARE)),
    "offload_dtypes": (
        edge(OFFLOAD, AWARE, "exp_avg_sq_dtype=fp8"),
        edge(OFFLOAD, AWARE, "main_grads_dtype=bf16"),
    ),
    "overlap_distributed": (
        edge("use_distributed_optimizer=false", "overlap_param_gather=true"),
        edge("use_distributed_optimizer=false", "overlap_grad_reduce=true"),
    ),
    "fp8_param": (
        edge("fp8_param_gather=true"),
        edge("fp8_param_gather=true", "fp8_format=hybrid"),
    ),
    "fp8_gpu": (
        edge("fp8_format=e4m3", "fp8_recipe=mxfp8"),
        edge("fp8_format=e4m3", "fp8_recipe=blockwise"),
    ),
    "host_memory": (
        on_small_hosts(edge(OFFLOAD, split=ONE_STAGE), 128 * GIB),
        edge(OFFLOAD, split=ONE_STAGE),
    ),
    "fp8_dims": (
        narrower(edge("fp8_format=e4m3"), ffn_hidden_size=776),
        narrower(edge("fp8_format=e4m3"), ffn_hidden_size=784),
    ),
    "capacity_padding": (
        edge("moe_pad_expert_input_to_capacity=true"),
        edge("moe_pad_expert_input_to_capacity=true", "moe_expert_capacity_factor=1.5"),
    ),
    "fp8_recompute": (
        edge("fp8_format=hybrid", recompute=NORMS),
        edge("fp8_format=hybrid", "fp8_recipe=tensorwise", recompute=NORMS),
    ),
}
