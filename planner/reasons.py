"""Why a layout was chosen, in sentences with values."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from planner.architectures import ARCHITECTURES
from planner.cluster import NETWORK, NVLINK, PCIE
from planner.grids import Grids
from planner.host_memory import ASSUMED_PROCESS_BYTES, host_memory_bytes, verdict_on_host
from planner.layer_shape import BF16
from planner.layout import Layout
from planner.memory import StageMemory, device_used
from planner.model_spec import GroupedQueryAttention, ModelSpec
from planner.parameters import RankParameters, model_parameters
from planner.placement import GroupPlacement, place
from planner.plan import HOST_REASONS, Reason
from planner.problem import Problem
from planner.releases import version_of
from planner.stack import Stack
from planner.units import GIB, MIB
from planner.verdict import Resumes, Verdict


def reasons(problem: Problem, layout: Layout, memory: list[StageMemory]) -> list[Reason]:
    """The reasons that apply, most telling first; the last one names what limits the layout."""
    found = []
    refused = not_trained(problem.model, problem.stack)
    if refused is not None:
        found.append(Reason("reason.not_trained", {"model": problem.model.name, "why": refused}))
    found += [*_experts(problem, layout), *_pipeline(problem, layout)]
    if layout.tp == 1:
        found.append(Reason("reason.no_tp", {"world": layout.world_size}))
    else:
        found.append(Reason("reason.tp", {"tp": layout.tp}))
    found += _recompute(problem, layout, memory)
    found += _checkpoints(memory)
    found.append(_limit(memory))
    return found


def not_trained(model: ModelSpec, stack: Stack | None = None) -> str | None:
    """Why `megatron sft` refuses a model, of any release or of a stack's; None: it does not."""
    architecture = ARCHITECTURES[model.model_type]
    since = architecture.trained_since
    if stack is None or not stack.ms_swift or version_of(stack.ms_swift) >= version_of(since):
        return architecture.not_trained
    return f"ms-swift {stack.ms_swift} does not know the type {model.model_type}, {since} does"


def crossing_groups(problem: Problem, layout: Layout) -> list[str]:
    """Names of the groups that leave the NVLink domain, TP first."""
    placed = _placed(problem, layout)
    names = ("tp", "cp", "ep", "pp", "dp", "edp")
    return [name for name in names if placed[name].size > 1 and placed[name].link_class != NVLINK]


def _placed(problem: Problem, layout: Layout) -> dict[str, GroupPlacement]:
    grids = Grids(
        world_size=layout.world_size,
        tp=layout.tp,
        cp=layout.cp,
        pp=layout.pp,
        ep=layout.ep,
        etp=layout.etp,
    )
    return place(problem.cluster, grids)


_EXPERT_REASONS = {NVLINK: "reason.ep_inside", PCIE: "reason.ep_pcie", NETWORK: "reason.ep_across"}


def _experts(problem: Problem, layout: Layout) -> list[Reason]:
    moe = problem.model.moe
    if moe is None or layout.ep == 1:
        return []
    parts = model_parameters(problem.model)
    experts = sum(size for part, size in parts.items() if part.startswith("experts."))
    values = {
        "percent": round(100 * experts / sum(parts.values())),
        "ep": layout.ep,
        "local": moe.num_experts // layout.ep,
        "experts": moe.num_experts,
    }
    return [Reason(_EXPERT_REASONS[_placed(problem, layout)["ep"].link_class], values)]


def _pipeline(problem: Problem, layout: Layout) -> list[Reason]:
    if layout.pp == 1:
        return []
    crossing = _placed(problem, layout)["pp"].link_class == NETWORK
    tokens = layout.micro_batch_size * problem.workload.seq_length / layout.cp / layout.tp
    values = {
        "pp": layout.pp,
        "vpp": layout.vpp,
        "mib": round(tokens * problem.model.hidden_size * BF16 / MIB),
    }
    return [Reason("reason.pp_across" if crossing else "reason.pp_inside", values)]


def _recompute(problem: Problem, layout: Layout, memory: list[StageMemory]) -> list[Reason]:
    """Why so much is recomputed; nothing where even that does not fit."""
    values = {"recompute": str(layout.recompute)}
    if problem.workload.recompute != "auto":
        return [Reason("reason.recompute_asked", values), *_core_attention(problem, layout)]
    if any(stage.device_used > stage.usable for stage in memory):
        return []
    if layout.recompute.granularity == "none":
        return [Reason("reason.no_recompute", {})]
    return [Reason("reason.recompute", values)]


def _core_attention(problem: Problem, layout: Layout) -> list[Reason]:
    """That recomputing core attention costs memory, where it does (planner.activations)."""
    attention = problem.model.attention
    if "core_attn" not in layout.recompute.modules or not isinstance(
        attention, GroupedQueryAttention
    ):
        return []
    tokens = layout.micro_batch_size * problem.workload.seq_length / layout.cp
    heads = (attention.num_heads + max(attention.num_query_groups, layout.tp)) / layout.tp
    size = tokens * heads * attention.head_dim * BF16
    return [Reason("reason.core_attn_costs", {"mib": round(size / MIB)})]


def _checkpoints(memory: list[StageMemory]) -> list[Reason]:
    """What of saving and resuming does not fit, where training does."""
    in_steps = [device_used(stage.peak_reserved, stage.nccl) for stage in memory]
    if any(used > stage.usable for used, stage in zip(in_steps, memory, strict=True)):
        return []
    # A checkpoint is read before most groups have spoken: what NCCL takes then is left out, so that
    # "cannot" is certain.
    needs = {
        "reason.cannot_save": [device_used(stage.saving, stage.nccl) for stage in memory],
        "reason.cannot_resume": [device_used(stage.resuming, 0) for stage in memory],
        "reason.may_not_resume": [float(stage.device_used_resumed) for stage in memory],
    }
    found: list[Reason] = []
    for reason, sizes in needs.items():
        stage = max(range(len(memory)), key=sizes.__getitem__)
        needed, usable = sizes[stage], memory[stage].usable
        if needed > usable:
            values = {
                "stage": stage,
                "needed_gib": round(needed / GIB, 1),
                "usable_gib": round(usable / GIB, 1),
                "less_gib": round((needed - usable) / GIB, 1),
            }
            found.append(Reason(reason, values))
    return found[:1]  # the first says most


def resumes(problem: Problem, memory: list[StageMemory]) -> Resumes:
    """Whether an interrupted run can go on."""
    if problem.recipe.no_save_optim:
        return Resumes.NO
    if any(device_used(stage.resuming, 0) > stage.usable for stage in memory):
        return Resumes.NO
    doubtful = any(stage.device_used_resumed > stage.usable for stage in memory)
    return Resumes.MAYBE if doubtful else Resumes.YES


def host_reasons(
    problem: Problem, layout: Layout, stages: Sequence[RankParameters]
) -> list[Reason]:
    """Why the memory of a node does not do, and what would; none where it does."""
    needed = host_memory_bytes(problem, layout, stages)
    if verdict_on_host(problem, needed) is Verdict.FITS:
        return []
    cluster = problem.cluster
    moment = max(needed, key=needed.__getitem__)
    values: dict[str, Any] = {
        "moment": moment,
        "needed_gib": round(needed[moment] / GIB, 1),
        "has_gib": round(cluster.host_memory_bytes / GIB, 1),
        "topology": cluster.name,
        "instead": _less_host_memory(problem, layout, stages, moment, needed[moment]),
    }
    known, assumed = HOST_REASONS
    return [Reason(assumed if cluster.assumes_host_memory else known, values)]


def _less_host_memory(
    problem: Problem, layout: Layout, stages: Sequence[RankParameters], moment: str, needed: int
) -> str:
    """What would do: checkpoints without the optimizer's states if that is enough, and so many
    nodes; where loading takes most, smaller parts."""
    cluster = problem.cluster
    if moment == "loading":
        return Reason("host.smaller_parts").message
    lean = replace(problem, recipe=replace(problem.recipe, no_save_optim=True))
    least = max(host_memory_bytes(lean, layout, stages).values())
    ways = []
    if least <= cluster.host_memory_bytes:
        ways.append(Reason("host.no_states", {"gib": round(least / GIB, 1)}))
    processes = cluster.gpus_per_node * ASSUMED_PROCESS_BYTES
    room = cluster.host_memory_bytes - processes
    if room > 0:  # what is saved is the same of all nodes together
        nodes = ceil(cluster.num_nodes * (needed - processes) / room)
        ways.append(Reason("host.more_nodes", {"nodes": nodes}))
    return ", or ".join(way.message for way in ways) or Reason("host.more_memory").message


def _limit(memory: list[StageMemory]) -> Reason:
    """What bounds the layout: the fullest stage and its largest terms."""
    stage = max(range(len(memory)), key=lambda index: memory[index].device_used)
    terms = sorted(memory[stage].limit_terms.items(), key=lambda item: -item[1])[:3]
    return Reason(
        "reason.limit",
        {
            "stage": stage,
            "percent": round(100 * memory[stage].device_used / memory[stage].usable),
            "terms": ", ".join(term.replace("_", " ") for term, _ in terms),
            "moment": memory[stage].limit_moment.replace("_", " "),
        },
    )
