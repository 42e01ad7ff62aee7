"""Runs whose logs `plan calibrate` reads: written as if the hosts had factors of their own."""

import json
from pathlib import Path
from typing import Any

from measure.calibrate.prediction import step_time
from planner.cluster import AS_PREDICTED, Calibration
from planner.evaluate import Evaluator
from planner.layout import Layout
from planner.planning import make_plan
from planner.problem import Problem
from planner.run import Asked, Run, machines_of
from planner.site import Site
from planner.workload import Load

GIB = 2**30
LOGS = Path(__file__).parent / "inputs" / "logs"
ERROR = (
    "[rank9]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 1 has a "
    "total capacity of 79.11 GiB of which 1.61 GiB is free. Process 4242 has 77.49 GiB memory in "
    "use. Of the allocated memory 70.15 GiB is allocated by PyTorch, and {pieces} is reserved by "
    "PyTorch but unallocated. If reserved but unallocated memory is large try setting"
)


def run_of(problem: Problem, layout: Layout) -> Run:
    """The run of a layout, as `plan --output-dir` writes it."""
    return Run(
        plan=make_plan(Evaluator(problem), layout),
        recipe=problem.recipe,
        site=Site(model_path="/data/model", dataset=("/data/train.jsonl",)),
        model=problem.model,
        machines=machines_of(problem.cluster),
        stack=problem.stack,
        load=Load.DIRECT,
        asked=Asked(
            topology=problem.cluster.name, workload=problem.workload, settings=problem.settings
        ),
    )


def write_run(folder: Path, run: Run) -> Path:
    """The folder of ms-swift's log, below that of the run."""
    output = folder / "output"
    output.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run.to_json()))
    return output


def swift_row(iteration: int, elapsed: float, **more: Any) -> str:
    """A line of ms-swift 4.6 after so many seconds."""
    row = {
        "loss": 1.5,
        "grad_norm": 0.8,
        "learning_rate": 1e-5,
        "iteration": f"{iteration}/400",
        "elapsed_time": "1m 2s",
        "remaining_time": "3m 4s",
        "memory(GiB)": 66.25,
        "train_speed(s/it)": round(elapsed / iteration, 6),
    }
    return json.dumps(row | more) + "\n"


def write_log(
    output: Path,
    run: Run,
    problem: Problem,
    calibration: Calibration = AS_PREDICTED,
    *,
    steps: int = 40,
    first: float = 30.0,
    save: float = 25.0,
) -> Path:
    """A log of hosts with these factors: two slow steps, then equal ones, and saves among them."""
    seconds = step_time(problem, run.plan.layout, calibration).total
    elapsed, path = 0.0, output / "logging.jsonl"
    with path.open("w") as file:
        for step in range(1, steps + 1):
            elapsed += seconds if step > 2 else first
            file.write(swift_row(step, elapsed))
            elapsed += save if step % run.recipe.save_steps == 0 else 0.0
    return path
