"""Make plans: evaluate a layout fully and say why it was chosen."""

from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from planner.compute import model_flops
from planner.constraints import violations
from planner.evaluate import Evaluator
from planner.host_memory import host_memory_bytes
from planner.layout import Layout
from planner.memory import StageMemory
from planner.parameters import RankParameters
from planner.plan import BrokenRule, Plan, Reason, StagePlan
from planner.possible import possible_elsewhere
from planner.problem import Problem, Sizes, as_layout
from planner.reasons import host_reasons, reasons, resumes
from planner.rule import Violation
from planner.saving import saving
from planner.step_time import CATEGORIES, StepTime
from planner.straggler import straggler_seconds
from planner.swift_args import ArgValue, training_args
from planner.units import TERA
from planner.verdict import odds_of_fitting
from planner.yaml_files import StrictModel, load_yaml_model

CONFIDENCE_FILE = Path(__file__).parent / "data" / "confidence.yaml"


class _Confidence(StrictModel):
    grade: str
    relative_error_p90: float
    rows: int


class _ConfidenceFile(StrictModel):
    measured: dict[str, _Confidence]


# Of a StageMemory: what is no predicted number.
_MOMENTS = ("peak_moment", "peak_moment_at_imbalance")
_NOT_NUMBERS = (*_MOMENTS, "layer_moment", "layer_moment_at_imbalance", "usable")

_BESIDE_TOTAL = ("hidden", "of_which", "elsewhere")
_OF_SAVING = ("bytes", "seconds", "seconds_per_step", "tokens_per_second_per_gpu")

# Dotted paths of all that a plan predicts.
PREDICTED = (
    "stages.parameters",
    "stages.expert_parameters",
    "stages.trainable_parameters",
    "stages.compute_seconds",
    *(
        f"stages.memory_bytes.{field.name}"
        for field in fields(StageMemory)
        if field.name not in _NOT_NUMBERS
    ),
    *(f"host_memory_bytes.{moment}" for moment in ("loading", "training", "saving")),
    *(f"step_seconds.{name}" for name in (*CATEGORIES, "total", *_BESIDE_TOTAL)),
    *(f"saving.{name}" for name in _OF_SAVING),
    "tokens_per_second_per_gpu",
    "samples_per_second",
    "model_tflops_per_gpu",
)


@cache
def confidence() -> dict[str, Any]:
    """Grade and error of the predicted values, by dotted path; None where nothing was measured."""
    measured = load_yaml_model(CONFIDENCE_FILE, _ConfidenceFile).measured
    found = {path: each.model_dump() for path, each in measured.items()}
    return {path: found.get(path) for path in PREDICTED}


def make_plan(evaluator: Evaluator, layout: Layout, *, broken: tuple[Violation, ...] = ()) -> Plan:
    """The plan of a layout that can be evaluated; `broken` are the rules that it breaks."""
    problem = evaluator.problem
    batch = evaluator.batch(layout)
    memory = batch.memory(layout.recompute)
    time = batch.step_time(layout.recompute)
    parameters = [batch.parameters(stage) for stage in range(layout.pp)]
    usable = problem.cluster.gpu.memory_usable_bytes
    fullest = max(stage.device_used for stage in memory)
    seconds, workload = time.total, problem.workload
    flops = model_flops(problem.model, workload) / layout.world_size
    return Plan(
        layout=layout,
        args=_args(problem, layout),
        verdict=batch.verdict(layout.recompute).value,
        resumes=resumes(problem, memory).value,
        odds_of_fitting=odds_of_fitting(fullest, usable),
        violations=broken_rules(broken),
        stages=[
            StagePlan(
                stage=stage,
                worst_rank=stage * layout.world_size // layout.pp,
                num_layers=layout.split.num_layers(stage),
                layer_ids=[list(chunk) for chunk in layout.split.layer_ids(stage)],
                parameters=parameters[stage].total,
                expert_parameters=parameters[stage].expert,
                trainable_parameters=parameters[stage].trainable,
                compute_seconds=time.compute_seconds[stage],
                memory_bytes=_memory_to_json(memory[stage]),
            )
            for stage in range(layout.pp)
        ],
        host_memory_bytes=host_memory_bytes(problem, layout, parameters),
        step_seconds=_time_to_json(time, straggler_seconds(evaluator, layout, seconds)),
        saving=saving(problem, seconds),
        tokens_per_second_per_gpu=workload.step_tokens / seconds / layout.world_size,
        samples_per_second=workload.global_batch_size / seconds,
        model_tflops_per_gpu=flops / seconds / TERA,
        confidence=confidence(),
        reasons=_reasons(evaluator, layout, memory, parameters, seconds),
    )


def _reasons(
    evaluator: Evaluator,
    layout: Layout,
    memory: list[StageMemory],
    parameters: list[RankParameters],
    seconds: float,
) -> list[Reason]:
    """What its hosts lack, why the layout was chosen, what else would speed it up, and last what
    limits it."""
    *why, limit = reasons(evaluator.problem, layout, memory)
    lacks = host_reasons(evaluator.problem, layout, parameters)
    return [*lacks, *why, *possible_elsewhere(evaluator, layout, seconds), limit]


def _args(problem: Problem, layout: Layout) -> dict[str, ArgValue]:
    return training_args(
        problem.model, layout, problem.workload, problem.stack, problem.recipe, problem.settings
    )


def check_plan(evaluator: Evaluator, sizes: Sizes) -> Plan:
    """The plan of the sizes that a user names, with every rule that they break."""
    problem = evaluator.problem
    broken = violations(problem, sizes)
    layout = as_layout(problem, sizes)
    if all(violation.rule.evaluable for violation in broken):
        return make_plan(evaluator, layout, broken=broken)
    return Plan(layout=layout, args={}, violations=broken_rules(broken), confidence=confidence())


def broken_rules(found: tuple[Violation, ...]) -> list[BrokenRule]:
    """Violations with their sentences."""
    broken = []
    for violation in found:
        reason = Reason(violation.message_id, violation.values)
        broken.append(
            BrokenRule(
                rule=violation.rule.id,
                kind=violation.rule.kind,
                message=reason.message,
                fix=reason.fix,
                source=violation.rule.source,
            )
        )
    return broken


def _memory_to_json(memory: StageMemory) -> dict[str, Any]:
    found = asdict(memory)
    for name in _MOMENTS:
        found[name] = found[name].value
    return found


def _time_to_json(time: StepTime, straggler: float) -> dict[str, Any]:
    return {
        **time.by_category(),
        "total": time.total,
        "hidden": time.hidden(),
        "of_which": {"busiest_expert_rank": straggler},
        "slowest_stage": time.slowest_stage,
        "elsewhere": {
            category: {"stage": stage, "seconds": seconds}
            for category, (stage, seconds) in time.elsewhere.items()
        },
    }
