"""What the planner predicts of a run under any calibration of its hosts."""

from dataclasses import fields, replace
from pathlib import Path

from planner.batch_view import BatchView
from planner.cluster import Calibration
from planner.errors import UsageError
from planner.evaluate import Evaluator
from planner.layout import Layout
from planner.problem import Problem
from planner.run import Run, machines_of
from planner.step_time import StepTime
from planner.topology_files import load_topology

FACTORS = tuple(field.name for field in fields(Calibration))


def problem_of(run: Run, run_path: Path, topology: str | None) -> Problem:
    """The problem that a run was planned for, on a topology; None: the one of that plan.

    Raises UsageError: calibrate.not_asked, calibrate.other_hosts, those of `load_topology`.
    """
    if run.asked is None:
        raise UsageError("calibrate.not_asked", path=run_path)
    name = topology or run.asked.topology
    machines = run.machines
    cluster = load_topology(name, machines.num_nodes, machines.gpus_per_node)
    if machines_of(cluster) != machines:
        raise UsageError(
            "calibrate.other_hosts",
            topology=name,
            path=run_path,
            gpu=machines.gpu_name,
            planned=run.asked.topology,
        )
    return Problem(
        model=run.model,
        cluster=cluster,
        workload=run.asked.workload,
        stack=run.stack,
        recipe=run.recipe,
        settings=run.asked.settings,
    )


def under(problem: Problem, calibration: Calibration) -> Problem:
    """The problem on hosts with these factors."""
    return replace(problem, cluster=replace(problem.cluster, calibration=calibration))


def batch_view(problem: Problem, layout: Layout) -> BatchView:
    """The view that evaluates the layout of a run."""
    return Evaluator(problem).batch(layout)


def step_time(problem: Problem, layout: Layout, calibration: Calibration) -> StepTime:
    """The terms of a step of a run."""
    return batch_view(under(problem, calibration), layout).step_time(layout.recompute)
