"""How far a plan can be trusted: the errors that were measured, and what lies outside of them."""

from planner.layout import Layout
from planner.plan import Plan
from planner.problem import Problem
from planner.report.numbers import percent
from planner.settings import MODELLED
from planner.workload import TunerType

# Widths of the ranks of benchmarks/memory: Qwen3-30B-A3B, Qwen2.5-7B and DeepSeek-V3.
MEASURED_TYPES = ("qwen3_moe", "qwen2", "deepseek_v3")


def _unmeasured(problem: Problem, layout: Layout) -> list[str]:
    """What of a plan lies outside the ranks that memory was compared with."""
    workload = problem.workload
    sizes = (("vpp", layout.vpp), ("cp", layout.cp), ("etp", layout.etp))
    found = [f"{name}{size}" for name, size in sizes if size > 1]
    if problem.model.model_type not in MEASURED_TYPES:
        found.insert(0, problem.model.model_type)
    found += [name for name in problem.settings.given if name in MODELLED]
    if workload.tuner_type is TunerType.LORA:
        found.append("LoRA")
    if workload.mtp_num_layers:
        found.append("MTP")
    if layout.micro_batch_size > 1:
        found.append(f"micro-batches of {layout.micro_batch_size}")
    if not problem.cluster.gpu.name.startswith("H100"):
        found.append(problem.cluster.gpu.name)
    return found


def trust(problem: Problem, plan: Plan) -> str:
    """How far off memory and time were where they were measured, and what was not."""
    memory = plan.confidence.get("stages.memory_bytes.peak_allocated")
    time = plan.confidence.get("step_seconds.total")
    parts = []
    if memory:
        error = percent(memory["relative_error_p90"])
        outside = _unmeasured(problem, plan.layout)
        but = f", none of them with {', '.join(outside)}" if outside else ""
        parts.append(
            f"Memory was within {error} of 9 in 10 of {memory['rows']} measured ranks{but}"
        )
    if time is None:
        parts.append("step times were never measured: benchmark the first before you rely on them")
    return "; ".join(parts) + "."
