"""The header of an answer: the inputs, the search, and whether the first plan can be resumed."""

from planner.cluster import AS_PREDICTED
from planner.dialects import words
from planner.model_spec import GroupedQueryAttention, ModelSpec
from planner.parameters import active_parameters, model_parameters
from planner.problem import Problem
from planner.releases import out_of_range
from planner.report.answer import Answer
from planner.report.links import link_words
from planner.report.numbers import billions, gib, percent
from planner.search import SearchResult
from planner.settings import Settings
from planner.verdict import Resumes
from planner.workload import Task, TunerType


def header(answer: Answer) -> list[tuple[str, str]]:
    """What was asked and how much was looked at, by name; and what to know of the first plan."""
    problem = answer.problem
    pairs = [
        ("Model", _model(problem.model)),
        ("Cluster", _cluster(problem)),
        ("Workload", _workload(problem)),
        ("Stack", _stack(problem)),
    ]
    if problem.settings.given:
        pairs.append(("Set", _settings(problem.settings)))
    result = answer.search
    if result is not None:
        pairs.append(
            (
                "Search",
                f"{result.enumerated} layouts -> {result.legal} legal -> {result.fitting} fit"
                f"{_beyond_hosts(result)}; "
                f"the best of each of {answer.grids_that_fit} grids, ranked by tokens/s",
            )
        )
        resuming = _resuming(answer, result)
        if resuming:
            pairs.append(("Resuming", resuming))
    return pairs


def _beyond_hosts(result: SearchResult) -> str:
    """How many layouts fit but for the memory of a node."""
    return f", {result.beyond_hosts} more but for the hosts' memory" if result.beyond_hosts else ""


def _resuming(answer: Answer, result: SearchResult) -> str:
    """That the first plan may not go on after an interruption, and the fastest that can; empty
    where the first can, or was asked not to."""
    plan, problem = answer.plans[0], answer.problem
    if plan.resumes == Resumes.YES.value or problem.recipe.no_save_optim:
        return ""
    may = "may not be able to" if plan.resumes == Resumes.MAYBE.value else "cannot"
    text = f"plan 1 {may} go on after an interruption, see why; "
    if result.resuming is None:
        return f"{text}no layout that fits is known to"
    other = result.ranked[result.resuming - 1]
    slower = percent(other.step_seconds / plan.step_seconds["total"] - 1)
    number, layout = result.resuming, other.layout(problem)
    return f"{text}the fastest that can is plan {number} ({layout}), {slower} slower"


def _model(model: ModelSpec) -> str:
    total = sum(model_parameters(model).values())
    parts = [f"{model.name}   {billions(total)} parameters"]
    if model.moe is not None:
        parts[0] += f", {billions(active_parameters(model))} active"
    detail = f"{model.num_layers} layers"
    if model.moe is not None:
        detail += f", {model.moe.num_experts} experts top-{model.moe.router_topk}"
    if isinstance(model.attention, GroupedQueryAttention):
        detail += f", {model.attention.num_query_groups} KV groups"
    else:
        detail += ", multi-latent attention"
    return "   ".join([*parts, detail])


def _cluster(problem: Problem) -> str:
    cluster = problem.cluster
    nodes = f"{cluster.num_nodes} node{'s' if cluster.num_nodes > 1 else ''}"
    gpus = f"{cluster.gpus_per_node} {cluster.gpu.name} {gib(cluster.gpu.memory_usable_bytes)} GiB"
    connected = ", ".join(link_words(cluster))
    calibrated = "" if cluster.calibration == AS_PREDICTED else ", calibrated"
    return f"{nodes} x {gpus}   {connected}   ({cluster.name}{calibrated})"


def _workload(problem: Problem) -> str:
    workload = problem.workload
    tuner = "full fine-tuning"
    if workload.tuner_type is TunerType.LORA:
        tuner = f"LoRA of rank {workload.lora_rank}"
    if workload.task is Task.PT:
        tuner += " on whole texts (pt)"
    text = (
        f"{tuner}, {_precision(problem.settings)}, packed {workload.seq_length} tokens, "
        f"global batch {workload.global_batch_size}, {_optimizer(problem.settings)}"
    )
    if workload.mtp_num_layers:
        text += f", {workload.mtp_num_layers} MTP layer"
    if workload.routing_imbalance != 1.0:
        text += f", busiest experts {workload.routing_imbalance:g} x the mean"
    return text


def _settings(settings: Settings) -> str:
    return ", ".join(f"{flag}={' '.join(words(value))}" for flag, value in settings.given.items())


def _precision(settings: Settings) -> str:
    if settings.fp8_format is None:
        return "bf16"
    return f"bf16 with fp8 products ({settings.fp8_format}, {settings.fp8_recipe})"


def _optimizer(settings: Settings) -> str:
    name = {"adam": "Adam", "sgd": "SGD"}[settings.optimizer]
    kind = "distributed" if settings.use_distributed_optimizer else "replicated"
    text = f"{name} with {kind} optimizer"
    if settings.optimizer_cpu_offload:
        text += f", {settings.offloaded_fraction:.0%} of its states on the host"
    return text


def _stack(problem: Problem) -> str:
    stack = problem.stack
    engine = f"Transformer Engine {stack.transformer_engine}"
    text = (
        f"{stack.name}   ms-swift {stack.ms_swift}, megatron-core {stack.megatron_core}, "
        f"{engine if stack.transformer_engine else 'no Transformer Engine'}"
    )
    for each in out_of_range(stack.ms_swift, stack.mcore_bridge, stack.megatron_core):
        text += f"; {each.package} {each.version} is outside of {each.permitted}"
    return text
