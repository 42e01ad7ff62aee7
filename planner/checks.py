"""The checks behind the rules of `planner.constraints`.

Each returns None, or the values that show that its rule is broken. They hold the nearest thing that
works too, for the fix of the rule's message.
"""

from dataclasses import replace
from math import gcd
from typing import Any

from planner.cluster import NVLINK
from planner.grids import Grids
from planner.model_spec import GroupedQueryAttention
from planner.named_split import named_split
from planner.parameters import trains_experts
from planner.placement import place_group
from planner.precision import fp8_recipe
from planner.problem import Problem, Sizes
from planner.workload import Placement, TunerType

Values = dict[str, Any]


def largest_divisor(total: int, most: int) -> int:
    """The largest divisor of `total` up to `most`."""
    return next(size for size in range(min(total, most), 0, -1) if total % size == 0)


def _nearest_multiple(total: int, divisor: int) -> int:
    return max(1, round(total / divisor)) * divisor


def world_dense(problem: Problem, sizes: Sizes) -> Values | None:
    """tp*cp*pp divides the world."""
    return _world(sizes, sizes.tp * sizes.cp * sizes.pp, tp=sizes.tp, cp=sizes.cp)


def world_expert(problem: Problem, sizes: Sizes) -> Values | None:
    """etp*ep*pp divides the world."""
    return _world(sizes, sizes.etp * sizes.ep * sizes.pp, etp=sizes.etp, ep=sizes.ep)


def _world(sizes: Sizes, divisor: int, **factors: int) -> Values | None:
    world = sizes.world_size
    if world % divisor == 0:
        return None
    return {
        "world": world,
        **factors,
        "pp": sizes.pp,
        "divisor": divisor,
        "nearest": largest_divisor(world, divisor),
        "nearest_world": _nearest_multiple(world, divisor),
    }


def heads_tp(problem: Problem, sizes: Sizes) -> Values | None:
    """TP divides the attention heads."""
    heads = problem.model.attention.num_heads
    return _tp(problem, sizes, heads=heads) if heads % sizes.tp else None


def _tp(problem: Problem, sizes: Sizes, **values: int) -> Values:
    """Values of a broken rule of TP; the nearest one keeps every rule of TP and the world."""
    model = problem.model
    shared = model.moe.shared_expert_intermediate_size if model.moe else 0
    shared_by_all = gcd(
        max(1, sizes.world_size // (sizes.cp * sizes.pp)),
        model.attention.num_heads,
        _query_groups(problem),
        model.dense_ffn_hidden_size,
        shared,
    )
    return {**values, "tp": sizes.tp, "nearest": largest_divisor(shared_by_all, sizes.tp)}


def _query_groups(problem: Problem) -> int:
    attention = problem.model.attention
    if isinstance(attention, GroupedQueryAttention):
        return attention.num_query_groups
    return attention.num_heads


def query_groups_tp(problem: Problem, sizes: Sizes) -> Values | None:
    """TP divides the query groups, or is a multiple of them."""
    groups = _query_groups(problem)
    if groups % sizes.tp == 0 or sizes.tp % groups == 0:
        return None
    return _tp(problem, sizes, groups=groups)


def query_groups_tp_strict(problem: Problem, sizes: Sizes) -> Values | None:
    """TP divides the query groups."""
    groups = _query_groups(problem)
    return _tp(problem, sizes, groups=groups) if groups % sizes.tp else None


def ffn_tp(problem: Problem, sizes: Sizes) -> Values | None:
    """TP divides the feed-forward sizes of dense layers and of shared experts."""
    model = problem.model
    shared = model.moe.shared_expert_intermediate_size if model.moe else 0
    for size in (model.dense_ffn_hidden_size, shared):
        if size % sizes.tp:
            return _tp(problem, sizes, size=size)
    return None


def dense_model(problem: Problem, sizes: Sizes) -> Values | None:
    """A model without experts has neither EP nor ETP."""
    if problem.model.is_moe or (sizes.ep == 1 and sizes.etp == 1):
        return None
    return {"model": problem.model.name, "ep": sizes.ep, "etp": sizes.etp}


def lora_etp(problem: Problem, sizes: Sizes) -> Values | None:
    """LoRA has no ETP."""
    if sizes.etp == 1 or problem.workload.tuner_type is TunerType.FULL:
        return None
    return {"etp": sizes.etp}


def bias_etp(problem: Problem, sizes: Sizes) -> Values | None:
    """Experts with biases have no ETP."""
    if sizes.etp == 1 or not (problem.model.is_moe and problem.model.linear_bias):
        return None
    return {"etp": sizes.etp, "model": problem.model.name}


def experts_ep(problem: Problem, sizes: Sizes) -> Values | None:
    """EP divides the routed experts."""
    moe = problem.model.moe
    if moe is None or moe.num_experts % sizes.ep == 0:
        return None
    fitting = gcd(moe.num_experts, max(1, sizes.world_size // (sizes.etp * sizes.pp)))
    nearest = largest_divisor(fitting, sizes.ep)
    return {"experts": moe.num_experts, "ep": sizes.ep, "nearest": nearest}


def expert_ffn_etp(problem: Problem, sizes: Sizes) -> Values | None:
    """ETP divides the feed-forward size of a routed expert."""
    moe = problem.model.moe
    if moe is None or moe.ffn_hidden_size % sizes.etp == 0:
        return None
    fitting = gcd(moe.ffn_hidden_size, max(1, sizes.world_size // (sizes.ep * sizes.pp)))
    nearest = largest_divisor(fitting, sizes.etp)
    return {"size": moe.ffn_hidden_size, "etp": sizes.etp, "nearest": nearest}


def experts_without_ep(problem: Problem, sizes: Sizes) -> Values | None:
    """Experts that EP does not divide are divided as dense layers are."""
    if sizes.ep > 1 or sizes.etp == sizes.tp:
        return None
    if not trains_experts(problem.model, problem.workload):
        return None
    drift = sizes.tp % sizes.etp == 0  # else a group of dp*cp holds several shards of an expert
    nearest = _nearest_experts(problem, sizes)
    return {
        "tp": sizes.tp,
        "etp": sizes.etp,
        "effect": (
            "copies of an expert drift apart"
            if drift
            else "gradients of different shards of an expert are added up"
        ),
        "nearest_tp": nearest.tp,
        "nearest_ep": nearest.ep,
        "nearest_etp": nearest.etp,
    }


def _nearest_experts(problem: Problem, sizes: Sizes) -> Sizes:
    """The smallest EP that keeps every rule of experts, else ETP like TP, else neither of them."""
    moe = problem.model.moe
    assert moe is not None
    most = gcd(moe.num_experts, sizes.world_size // (sizes.etp * sizes.pp))
    divided = [replace(sizes, ep=ep) for ep in range(2, most + 1) if most % ep == 0]
    kept = (world_expert, lora_etp, bias_etp, expert_ffn_etp, ep_nvlink)
    for tried in (*divided, replace(sizes, etp=sizes.tp)):
        if all(check(problem, tried) is None for check in kept):
            return tried
    return replace(sizes, tp=1, etp=1)


def sequence_shards(problem: Problem, sizes: Sizes) -> Values | None:
    """TP and CP divide the sequence, and what a rank gets is a multiple of an fp8 block."""
    recipe = fp8_recipe(problem.settings)
    halves = 2 if sizes.cp > 1 else 1  # with CP a rank has a piece of either half
    if recipe is not None:
        halves = recipe.tokens
    divisor = sizes.tp * halves * sizes.cp
    length = problem.workload.seq_length
    if length % divisor == 0:
        return None
    return {
        "length": length,
        "tp": sizes.tp,
        "halves": halves,
        "cp": sizes.cp,
        "divisor": divisor,
        "nearest": _nearest_multiple(length, divisor),
    }


def layers(problem: Problem, sizes: Sizes) -> Values | None:
    """Every chunk has a layer."""
    chunks = sizes.pp * sizes.vpp
    layers = problem.model.num_layers
    if layers >= chunks or problem.settings.names_split:  # which rules of its own hold
        return None
    return {"layers": layers, "pp": sizes.pp, "vpp": sizes.vpp, "chunks": chunks}


def split_sum(problem: Problem, sizes: Sizes) -> Values | None:
    """The stages hold every layer once."""
    if sizes.split is None or _is_placeholder(problem, sizes):
        return None
    held = sorted(
        layer
        for stage in range(sizes.split.num_stages)
        for chunk in sizes.split.layer_ids(stage)
        for layer in chunk
    )
    layers = problem.model.num_layers
    if held == list(range(layers)):
        return None
    missing = len(set(range(layers)).difference(held))
    return {"layers": layers, "missing": missing, "extra": len(held) - (layers - missing)}


def _is_placeholder(problem: Problem, sizes: Sizes) -> bool:
    """Whether the split stands for one that settings name wrongly, as a rule of theirs says."""
    settings, layers = problem.settings, problem.model.num_layers
    return settings.names_split and named_split(settings, layers, sizes.pp, sizes.vpp) is None


def vpp_pp(problem: Problem, sizes: Sizes) -> Values | None:
    """Interleaving needs a pipeline."""
    return {"vpp": sizes.vpp} if sizes.vpp > 1 and sizes.pp == 1 else None


def batch(problem: Problem, sizes: Sizes) -> Values | None:
    """The global batch is made of whole microbatches."""
    dp, micro = sizes.dp, sizes.micro_batch_size
    total = problem.workload.global_batch_size
    step = micro * dp
    if total % step == 0:
        return None
    nearest = _nearest_multiple(total, step)
    return {"total": total, "micro": micro, "dp": dp, "divisor": step, "nearest": nearest}


def vpp_microbatches(problem: Problem, sizes: Sizes) -> Values | None:
    """With interleaving groups of at least pp microbatches fill a step, the last one too."""
    if sizes.vpp == 1:
        return None
    group = problem.settings.microbatch_group_size_per_vp_stage or sizes.pp
    total, step = problem.workload.global_batch_size, sizes.micro_batch_size * sizes.dp
    microbatches = total // step
    left = microbatches % group
    if sizes.pp <= group <= microbatches and (left == 0 or left >= sizes.pp):
        return None
    return {
        "microbatches": microbatches,
        "group": group,
        "pp": sizes.pp,
        "vpp": sizes.vpp,
        "nearest": _nearest_multiple(total, step * max(group, sizes.pp)),
    }


def recompute_modules(problem: Problem, sizes: Sizes) -> Values | None:
    """Modules to recompute exist."""
    known = {"core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts"}
    unknown = sorted(set(sizes.recompute.modules) - known)
    if not unknown:
        return None
    return {"module": unknown[0], "known": ", ".join(sorted(known))}


def recompute_mla(problem: Problem, sizes: Sizes) -> Values | None:
    """Only multi-latent attention has up projections to recompute."""
    if "mla_up_proj" not in sizes.recompute.modules:
        return None
    if not isinstance(problem.model.attention, GroupedQueryAttention):
        return None
    return {"model": problem.model.name}


def recompute_layernorm(problem: Problem, sizes: Sizes) -> Values | None:
    """Norms are not recomputed beside a sparse layer."""
    if not problem.model.is_moe or "layernorm" not in sizes.recompute.modules:
        return None
    return {"megatron_core": problem.stack.megatron_core}


def recompute_num_layers(problem: Problem, sizes: Sizes) -> Values | None:
    """No more layers are recomputed than a chunk has."""
    recompute = sizes.recompute
    if recompute.granularity != "full" or sizes.split is None:
        return None
    most = max(
        end - first
        for stage in range(sizes.split.num_stages)
        for first, end in sizes.split.chunks[stage]
    )
    number = recompute.num_layers or 0
    if 1 <= number <= most:
        return None
    return {"number": number, "most": most, "nearest": min(max(number, 1), most)}


def dispatcher(problem: Problem, sizes: Sizes) -> Values | None:
    """The stack can run the dispatcher."""
    if not problem.model.is_moe or sizes.dispatcher in problem.stack.dispatchers:
        return None
    known = ", ".join(problem.stack.dispatchers)
    return {"dispatcher": sizes.dispatcher, "stack": problem.stack.name, "known": known}


def mtp_available(problem: Problem, sizes: Sizes) -> Values | None:
    """The checkpoint holds the MTP layers to train."""
    mtp, model = problem.workload.mtp_num_layers, problem.model
    if mtp <= model.mtp_num_layers:
        return None
    return {"mtp": mtp, "model": model.name, "available": model.mtp_num_layers}


def _inside_nvlink(problem: Problem, sizes: Sizes, group: str, size: int) -> Values | None:
    if size == 1 or problem.workload.placement is Placement.ANY:
        return None
    if world_dense(problem, sizes) or world_expert(problem, sizes):
        return None  # there are no groups to place
    grids = Grids(
        world_size=sizes.world_size,
        tp=sizes.tp,
        cp=sizes.cp,
        pp=sizes.pp,
        ep=sizes.ep,
        etp=sizes.etp,
    )
    if place_group(problem.cluster, grids, group).link_class == NVLINK:
        return None
    domain = problem.cluster.nvlink_domain_size
    shared = gcd(domain, size)
    nearest = shared if shared > 1 else largest_divisor(domain, size)
    absent = problem.cluster.nvlink_bandwidth_bytes_per_second is None
    told = f"{domain} (these hosts have none)" if absent else domain
    return {"size": size, "domain": told, "nearest": nearest}


def tp_nvlink(problem: Problem, sizes: Sizes) -> Values | None:
    """TP stays inside NVLink."""
    return _inside_nvlink(problem, sizes, "tp", sizes.tp)


def ep_nvlink(problem: Problem, sizes: Sizes) -> Values | None:
    """EP, with ETP, stays inside NVLink."""
    return _inside_nvlink(problem, sizes, "etp_ep", sizes.etp * sizes.ep)
