"""Of each rule of a layout: what breaks it alone, and what stands beside it and breaks none."""

from dataclasses import replace
from typing import Any

from problems import problem
from setting_edges import Edge

from planner.layout import PipelineSplit, Recompute
from planner.model_spec import GroupedQueryAttention, ModelSpec
from planner.problem import Problem, Sizes
from planner.workload import Placement, TunerType


def sizes(world_size: int = 16, **chosen: Any) -> Sizes:
    return Sizes(world_size=world_size, **chosen)


def block(num_layers: int) -> Recompute:
    return Recompute(granularity="full", method="block", num_layers=num_layers)


def selective(*modules: str) -> Recompute:
    return Recompute(granularity="selective", modules=modules)


QWEN3 = problem()
LORA = problem(tuner_type=TunerType.LORA)
DENSE = problem("Qwen2.5-7B")
DEEPSEEK = problem("DeepSeek-V3")
OLD = problem(stack="ms-swift-3.12")
NEW = problem(stack="gpu-kit-2026-11")
BIASED = problem("gpt-oss-20b")
NEWEST = problem(stack="gpu-kit-2026-11+megatron-core-0.19")
GQA = QWEN3.model.attention
assert isinstance(GQA, GroupedQueryAttention)


def six(model: ModelSpec, **changes: Any) -> Problem:
    """A problem on 6 GPUs of one host; a change is of the model or of its experts."""
    if "ffn_hidden_size" in changes and model.moe is not None:
        changes = {"moe": replace(model.moe, **changes)}
    return problem(replace(model, **changes), gpus=6, global_batch_size=12, seq_length=8184)


assert QWEN3.model.moe is not None
NINE_EXPERTS = problem(replace(QWEN3.model, moe=replace(QWEN3.model.moe, num_experts=9)))

TWO_STAGES = PipelineSplit((((0, 20),), ((20, 48),)))
LOSES_A_LAYER = PipelineSplit((((0, 20),), ((21, 48),)))
MIXED = replace(
    QWEN3.model,
    attention=replace(GQA, num_heads=48, num_query_groups=8),
)

# rule: what breaks this rule only, and what stands beside it and breaks none
LAYOUT_EDGES: dict[str, tuple[Edge, Edge]] = {
    "world_dense": ((QWEN3, sizes(tp=8, cp=4, ep=2)), (QWEN3, sizes(tp=8, cp=2, ep=2))),
    "world_expert": ((QWEN3, sizes(ep=8, etp=4)), (QWEN3, sizes(ep=4, etp=2))),
    "heads_tp": ((DENSE, sizes(tp=8)), (DENSE, sizes(tp=4))),
    "query_groups_tp": ((six(MIXED), sizes(6, tp=6, ep=2)), (six(MIXED), sizes(6, tp=2, ep=2))),
    "query_groups_tp_strict": ((OLD, sizes(tp=8, ep=2)), (QWEN3, sizes(tp=8, ep=2))),
    "ffn_tp": (
        (problem(replace(DENSE.model, dense_ffn_hidden_size=18946)), sizes(tp=4)),
        (DENSE, sizes(tp=4)),
    ),
    "dense_model": ((DENSE, sizes(ep=2)), (QWEN3, sizes(ep=2))),
    "lora_etp": ((LORA, sizes(ep=2, etp=2)), (QWEN3, sizes(ep=2, etp=2))),
    "bias_etp": ((BIASED, sizes(ep=2, etp=2)), (BIASED, sizes(ep=2))),
    "experts_ep": ((six(QWEN3.model), sizes(6, ep=3)), (six(QWEN3.model), sizes(6, ep=2))),
    "expert_ffn_etp": (
        (six(QWEN3.model, ffn_hidden_size=770), sizes(6, ep=2, etp=3)),
        (six(QWEN3.model), sizes(6, ep=2, etp=3)),
    ),
    "experts_without_ep": ((QWEN3, sizes(tp=2)), (QWEN3, sizes(tp=2, etp=2))),
    "sequence_shards": (
        (problem(seq_length=8200), sizes(cp=8)),
        (problem(seq_length=8200), sizes(cp=4)),
    ),
    "tp_nvlink": (
        (QWEN3, sizes(tp=16, ep=2)),
        (problem(placement=Placement.ANY), sizes(tp=16, ep=2)),
    ),
    "ep_nvlink": ((QWEN3, sizes(ep=8, etp=2)), (QWEN3, sizes(ep=4, etp=2))),
    "mtp_available": (
        (problem(mtp_num_layers=1), sizes()),
        (problem("DeepSeek-V3", mtp_num_layers=1), sizes()),
    ),
    "dispatcher": ((NEW, sizes(dispatcher="flex")), (NEW, sizes())),
    "layers": ((QWEN3, sizes(pp=16, vpp=4)), (QWEN3, sizes(pp=16, vpp=3))),
    "split_sum": (
        (QWEN3, sizes(pp=2, split=LOSES_A_LAYER)),
        (QWEN3, sizes(pp=2, split=TWO_STAGES)),
    ),
    "vpp_pp": ((QWEN3, sizes(vpp=2)), (QWEN3, sizes(vpp=2, pp=2))),
    "batch": (
        (problem(global_batch_size=24), sizes()),
        (problem(global_batch_size=24), sizes(tp=2, ep=2)),
    ),
    "vpp_microbatches": (
        (QWEN3, sizes(pp=4, tp=2, ep=2, vpp=2, micro_batch_size=4)),
        (QWEN3, sizes(pp=4, tp=2, ep=2, vpp=2, micro_batch_size=2)),
    ),
    "recompute_modules": (
        (QWEN3, sizes(recompute=selective("attention"))),
        (QWEN3, sizes(recompute=selective("core_attn"))),
    ),
    "recompute_layernorm": (
        (NEW, sizes(recompute=selective("layernorm"))),
        (QWEN3, sizes(recompute=selective("layernorm"))),
    ),
    "recompute_mla": (
        (QWEN3, sizes(recompute=selective("mla_up_proj"))),
        (DEEPSEEK, sizes(recompute=selective("mla_up_proj"))),
    ),
    "recompute_num_layers": (
        (QWEN3, sizes(pp=2, split=TWO_STAGES, recompute=block(29))),
        (QWEN3, sizes(pp=2, split=TWO_STAGES, recompute=block(28))),
    ),
}
