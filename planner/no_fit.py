"""Why nothing fits, as a proof, and the cheapest ways out; why nothing is even legal."""

from dataclasses import dataclass, replace
from math import ceil

from planner.errors import NothingFitsError, PlannerError, UsageError
from planner.evaluate import Evaluator
from planner.host_memory import host_memory_bytes
from planner.layer_shape import BF16
from planner.layout import Layout
from planner.memory import StageMemory
from planner.parameters import model_parameters
from planner.plan import Reason
from planner.precision import state_bytes
from planner.problem import Problem
from planner.search import SearchResult, refuses_all, search
from planner.units import GIB, GIGA
from planner.workload import Placement, TunerType

SHORTEST_PACK = 1024  # tokens; nobody packs to less
ENDLESS_BYTES = 2**60  # more than any host has
MOST_TRIALS = 10  # of growing clusters; each is a search


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """`because` leads to the conclusion; `ways_out` were each tried and fit."""

    because: list[Reason]
    ways_out: list[Reason]


def nothing_found(problem: Problem, result: SearchResult) -> PlannerError:
    """The error of a search that ranked nothing: nofit.error, input.batch, input.nothing_legal,
    input.never_legal."""
    if result.legal == 0:
        return _nothing_legal(problem, result)
    proof = prove(problem, result)
    return NothingFitsError(
        "nofit.error",
        because=[reason.message for reason in proof.because],
        ways_out=[reason.message for reason in proof.ways_out],
        model=problem.model.name,
        gpus=problem.cluster.num_gpus,
        gpu=problem.cluster.gpu.name,
        tuner=f"{problem.workload.tuner_type.value} fine-tuning",
    )


def _nothing_legal(problem: Problem, result: SearchResult) -> UsageError:
    """What stands in the way of every layout: the batch, or else a rule that refuses
    all, or the one that refused most."""
    gpus, batch = problem.cluster.num_gpus, problem.workload.global_batch_size
    if "batch" in result.rejected:
        nearest = _nearest_legal_batch(problem)
        if nearest is not None:
            hint = f"use --global-batch-size {nearest}"
            return UsageError("input.batch", total=batch, gpus=gpus, suggestion=hint)
    evaluator = Evaluator(problem)
    by_count = sorted(result.rejected.values(), key=lambda rejection: -rejection.count)
    always = next((it for it in by_count if refuses_all(evaluator, it.violation.rule)), None)
    worst = always or by_count[0]
    violation = worst.violation
    because = PlannerError(violation.message_id, **violation.values)
    return UsageError(
        "input.never_legal" if always else "input.nothing_legal",
        model=problem.model.name,
        gpus=gpus,
        enumerated=result.enumerated,
        count=worst.count,
        because=because.message,
        suggestion=because.fix,
    )


def _nearest_legal_batch(problem: Problem) -> int | None:
    """The nearest multiple of micro-batch size*dp that makes a layout legal."""
    gpus, workload = problem.cluster.num_gpus, problem.workload
    micro, batch = workload.micro_batch_size or 1, workload.global_batch_size
    steps = [micro * dp for dp in range(1, gpus + 1) if gpus % dp == 0]
    multiples = {max(1, round(batch / step)) * step for step in steps}
    for nearest in sorted(multiples, key=lambda each: (abs(each - batch), each)):
        other = replace(problem, workload=replace(workload, global_batch_size=nearest))
        if search(Evaluator(other)).legal:
            return nearest
    return None


def prove(problem: Problem, result: SearchResult) -> Proof:
    """Why no layout of the problem fits."""
    return Proof(because=_because(problem, result), ways_out=_ways_out(problem, result))


def _because(problem: Problem, result: SearchResult) -> list[Reason]:
    """One term that alone exceeds the GPU for every layout, or the nearest layout's shortage."""
    workload, gpus = problem.workload, problem.cluster.num_gpus
    usable = problem.cluster.gpu.memory_usable_bytes
    total = sum(model_parameters(problem.model, mtp_num_layers=workload.mtp_num_layers).values())
    values = {
        "billions": round(total / GIGA, 1),
        "gpus": gpus,
        "usable_gib": round(usable / GIB, 1),
    }
    if workload.tuner_type is TunerType.FULL:
        states = _state_bytes(problem)
        for message, per_parameter in (
            ("nofit.optimizer", states),
            ("nofit.static", states + _weight_bytes(problem)),
        ):
            needed = per_parameter * total / gpus
            if needed > usable:
                return [
                    Reason(
                        message,
                        {
                            **values,
                            "bytes": f"{per_parameter:g}",
                            "needed_gib": round(needed / GIB, 1),
                        },
                    )
                ]
    if not result.beyond_hosts:
        assert result.nearest_miss is not None
        return [_nearest(problem, result.nearest_miss)]
    return [_host(problem)]


def _host(problem: Problem) -> Reason:
    """What of the layouts that fit the GPUs takes least of a node's memory."""
    large = replace(problem.cluster, host_memory_bytes=ENDLESS_BYTES)
    roomy = search(Evaluator(replace(problem, cluster=large)))
    evaluator = Evaluator(problem)

    def needed(layout: Layout) -> dict[str, int]:
        batch = evaluator.batch(layout)
        stages = [batch.parameters(stage) for stage in range(layout.pp)]
        return host_memory_bytes(problem, layout, stages)

    layouts = [candidate.layout(problem) for candidate in roomy.ranked]
    least = min(layouts, key=lambda layout: max(needed(layout).values()))
    moments = needed(least)
    moment = max(moments, key=moments.__getitem__)
    return Reason(
        "nofit.host",
        {
            "layout": str(least),
            "moment": moment,
            "needed_gib": round(moments[moment] / GIB, 1),
            "has_gib": round(problem.cluster.host_memory_bytes / GIB, 1),
        },
    )


def _state_bytes(problem: Problem) -> float:
    """The optimizer's, a parameter, that the GPUs hold between them at the least."""
    states = state_bytes(problem.settings)
    return states.master + states.moments


def _weight_bytes(problem: Problem) -> float:
    """Weights in bf16 and gradients, a parameter."""
    return BF16 + state_bytes(problem.settings).gradient


def _nearest(problem: Problem, layout: Layout) -> Reason:
    stages = Evaluator(problem).batch(layout).memory(layout.recompute)
    fullest: StageMemory = max(stages, key=lambda stage: stage.device_used)
    largest = sorted(fullest.terms.items(), key=lambda item: -item[1])[:3]
    return Reason(
        "nofit.nearest",
        {
            "layout": f"tp{layout.tp} pp{layout.pp} cp{layout.cp} ep{layout.ep} "
            f"recompute {layout.recompute}",
            "used_gib": round(fullest.device_used / GIB, 1),
            "usable_gib": round(fullest.usable / GIB, 1),
            "terms": ", ".join(f"{term} {size / GIB:.1f} GiB" for term, size in largest),
        },
    )


def _ways_out(problem: Problem, result: SearchResult) -> list[Reason]:
    """What was tried and fits: LoRA, smaller checkpoints, the fewest GPUs of some sizes, the
    longest of halved packs."""
    found = []
    workload = problem.workload
    if workload.tuner_type is TunerType.FULL:
        lora = replace(workload, tuner_type=TunerType.LORA)
        if not problem.settings.given and _fits(replace(problem, workload=lora)):
            found.append(Reason("nofit.lora", {}))
    lean = replace(problem, recipe=replace(problem.recipe, no_save_optim=True))
    if result.beyond_hosts and _fits(lean):
        found.append(Reason("nofit.no_states"))
    found += _any_placement(problem)
    found += _fewest_gpus(problem)
    length = workload.seq_length // 2
    while length >= SHORTEST_PACK:
        if _fits(replace(problem, workload=replace(workload, seq_length=length))):
            found.append(Reason("nofit.shorter", {"seq_length": length}))
            break
        length //= 2
    return found


def _fits(problem: Problem) -> bool:
    return bool(search(Evaluator(problem)).ranked)


def _any_placement(problem: Problem) -> list[Reason]:
    """Leaving NVLink, where it does not even join a host."""
    cluster, workload = problem.cluster, problem.workload
    if workload.placement is Placement.ANY or cluster.island_size == cluster.nvlink_domain_size:
        return []
    anywhere = replace(workload, placement=Placement.ANY)
    fits = _fits(replace(problem, workload=anywhere))
    return [Reason("nofit.placement", {})] if fits else []


def least_gpus(problem: Problem) -> float:
    """The number of GPUs below which weights, gradients and the optimizer's states alone exceed
    them, whatever the layout; of LoRA, the weights."""
    workload = problem.workload
    total = sum(model_parameters(problem.model, mtp_num_layers=workload.mtp_num_layers).values())
    is_full = workload.tuner_type is TunerType.FULL
    per_parameter = _state_bytes(problem) + _weight_bytes(problem) if is_full else float(BF16)
    return per_parameter * total / problem.cluster.gpu.memory_usable_bytes


def _fewest_gpus(problem: Problem) -> list[Reason]:
    """The first of growing clusters that fits: whole hosts, from the static bytes on in steps of
    an eighth."""
    workload, cluster = problem.workload, problem.cluster
    gpus = max(cluster.num_gpus + 1, ceil(least_gpus(problem)))
    for _ in range(MOST_TRIALS):
        per_node = min(cluster.host_gpus, 1 << (gpus - 1).bit_length())
        nodes = -(-gpus // per_node)
        larger = replace(cluster, num_nodes=nodes, gpus_per_node=per_node)
        batch = max(workload.global_batch_size, larger.num_gpus)
        other = replace(workload, global_batch_size=batch)
        if _fits(replace(problem, cluster=larger, workload=other)):
            values = {"gpus": larger.num_gpus, "nodes": nodes, "batch": batch}
            return [Reason("nofit.gpus", values)]
        gpus = larger.num_gpus + max(1, larger.num_gpus // 8)
    return []
