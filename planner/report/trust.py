"""How far a plan can be trusted: the errors that were measured, and what lies outside of them."""

from planner.layout import Layout
from planner.plan import Plan
from planner.problem import Problem
from planner.report.numbers import percent
from planner.settings import MODELLED
from planner.ties import Ties
from planner.verdict import NEVER_MEASURED, Verdict

# The families and the largest sizes of the ranks of benchmarks/memory/design.jsonl; a test holds
# them equal.
MEASURED_TYPES = ("qwen3_moe", "deepseek_v3", "qwen2_moe", "qwen2", "llama", "glm4_moe")
MEASURED_PACK_TOKENS = 32768
MEASURED_IMBALANCE = 2.0
MEASURED_STACK = ("0.18.1", "2.12.0")  # megatron-core and Transformer Engine
# GPUs of a host with NVSwitches. In larger domains NCCL's memory for messages, which grows with the
# peers of a rank, is a guess that nothing was held against.
LARGEST_USUAL_DOMAIN = 8
MEASURED_UP_TO = {
    "tp": 4,
    "pp": 8,
    "vpp": 2,
    "ep": 16,
    "etp": 2,
    "cp": 2,
    "micro_batch_size": 4,
}


def unmeasured(problem: Problem, layout: Layout) -> list[str]:
    """What of a plan lies outside the ranks that memory was compared with."""
    found, workload = [], problem.workload
    if problem.model.model_type not in MEASURED_TYPES:
        found.append(problem.model.model_type)
    for name, most in MEASURED_UP_TO.items():
        size = getattr(layout, name)
        if size > most:
            short = name != "micro_batch_size"
            found.append(f"{name}{size}" if short else f"micro-batches of {size}")
    if workload.seq_length > MEASURED_PACK_TOKENS:
        found.append(f"packs of {workload.seq_length}")
    if workload.routing_imbalance > MEASURED_IMBALANCE:
        found.append(f"experts at {workload.routing_imbalance:g} times the mean")
    found += [name for name in problem.settings.given if name in MODELLED]
    return found + _unmeasured_machines(problem)


def _unmeasured_machines(problem: Problem) -> list[str]:
    """What of the software and the GPUs lies outside of them."""
    found, stack, cluster = [], problem.stack, problem.cluster
    if (stack.megatron_core, stack.transformer_engine) != MEASURED_STACK:
        found.append(f"megatron-core {stack.megatron_core}")
    if stack.apex:
        found.append("apex")
    if stack.attention_backend == "flash":
        found.append("flash-attn")
    if not cluster.gpu.name.startswith(("H100", "H200")):
        found.append(cluster.gpu.name)
    if cluster.nvlink_domain_size > LARGEST_USUAL_DOMAIN:
        found.append(f"NCCL in an NVLink domain of {cluster.nvlink_domain_size} GPUs")
    return found


def odds(problem: Problem, plan: Plan) -> str:
    """The odds that a plan fits, and what they leave out."""
    assert plan.odds_of_fitting is not None
    rounded = round(100 * plan.odds_of_fitting)
    chances = min(99, rounded) if rounded else "less than 1"
    left_out = ", ".join([*unmeasured(problem, plan.layout), *NEVER_MEASURED])
    what = "it fits"
    if plan.lacks is not None:
        assumed = plan.verdict != Verdict.EXCEEDS.value
        what += " its GPUs, if not its hosts as assumed" if assumed else " its GPUs, not its hosts"
    return f"{chances} in 100 that {what}, if errors are as measured; not measured: {left_out}"


def trust(problem: Problem, plan: Plan) -> str:
    """How far off memory and time were where they were measured, and what was not."""
    memory = plan.confidence.get("stages.memory_bytes.device_used")
    time = plan.confidence.get("step_seconds.total")
    parts = []
    if memory:
        error = percent(memory["relative_error_p90"])
        outside = unmeasured(problem, plan.layout)
        but = f", none of them with {', '.join(outside)}" if outside else ""
        parts.append(
            f"Device use was within {error} on 9 in 10 of {memory['rows']} fresh ranks{but}"
        )
    if time:
        error = percent(time["relative_error_p90"])
        parts.append(
            f"step times were within {error} on 9 in 10 of {time['rows']} layouts of two GPUs: "
            "benchmark the first before you rely on them"
        )
    return "; ".join(parts) + "."


def ties_words(ties: Ties) -> str:
    """How many of the ranking are tied with the first, and by what."""
    tied = len(ties.contenders)
    error = percent(ties.relative_error)
    if tied == 1:
        return f"None that fits as well is tied with 1: the model's error is {error}."
    second = f"; try 1 and {ties.second.number}" if ties.second else ""
    return (
        f"{tied} are tied: their times differ by less than the model's error between two layouts, "
        f"{error}{second}."
    )
