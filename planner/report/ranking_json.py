"""The JSON of ties, of a Pareto front, and of how few GPUs or how long packs fit."""

from typing import TYPE_CHECKING, Any

from planner.plan import layout_to_json
from planner.ties import Contender, Ties

if TYPE_CHECKING:
    from planner.pareto import Point
    from planner.reach import Reach, Trial


def ties_to_json(ties: Ties) -> dict[str, Any]:
    """Places in the ranking that are tied, and the one or two layouts to try."""
    to_try = [ties.first] + ([ties.second] if ties.second else [])
    return {
        "relative_error": ties.relative_error,
        "numbers": [each.number for each in ties.contenders],
        "try": [_contender(each) for each in to_try],
    }


def _contender(contender: Contender) -> dict[str, Any]:
    return {
        "number": contender.number,
        "layout": layout_to_json(contender.layout),
        "step_seconds": contender.step_seconds,
    }


def point_to_json(point: "Point") -> dict[str, Any]:
    """A member of the front, with what is weighed."""
    return {
        "layout": layout_to_json(point.layout),
        "verdict": point.verdict,
        "num_gpus": point.num_gpus,
        "step_seconds": point.step_seconds,
        "tokens_per_second_per_gpu": point.tokens_per_second_per_gpu,
        "device_used": point.device_used,
    }


def reach_to_json(reach: "Reach") -> dict[str, Any]:
    """All that was tried."""
    return {
        "question": reach.question.value,
        "trials": [_trial(reach, trial) for trial in reach.trials],
    }


def _trial(reach: "Reach", trial: "Trial") -> dict[str, Any]:
    """What was tried and its best layout; null where there is none."""
    plan, cluster, workload = trial.plan, trial.problem.cluster, trial.problem.workload
    return {
        "num_gpus": trial.num_gpus,
        "num_nodes": cluster.num_nodes,
        "seq_length": workload.seq_length,
        "global_batch_size": workload.global_batch_size,
        "verdict": trial.verdict,
        "searched": trial.result is not None,
        "layout": layout_to_json(plan.layout) if plan else None,
        "step_seconds": plan.step_seconds["total"] if plan else None,
        "tokens_per_second_per_gpu": plan.tokens_per_second_per_gpu if plan else None,
        "seconds_per_token": trial.costs[0] if plan else None,
        "gpu_seconds_per_token": trial.costs[1] if plan else None,
        "device_used": plan.device_used if plan else None,
        "resumes": plan.resumes if plan else None,
        "resuming": trial.result.resuming if trial.result else None,
        "on_front": reach.on_front(trial),
    }
