"""`plan calibrate`: real runs beside their predictions, and factors that explain the difference."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure.calibrate.fit import ASSUMED_MODEL_ERROR, Fit, Observed, fit
from measure.calibrate.ladder import (
    changed_arguments,
    check_command,
    missing_bytes,
    next_rung,
    stage_of,
)
from measure.calibrate.log_file import LogFile, read_log
from measure.calibrate.overlay import overlay_text
from measure.calibrate.prediction import batch_view, problem_of, step_time
from measure.calibrate.warm_steps import TRUSTED_STEPS, Measured, measured
from measure.calibrate.ways import fits_alone, others_bytes, predicted_bytes, ways_out
from measure.new_file import write_new_file
from planner.cluster import Calibration
from planner.command import plan_with, terminal_width, write_output
from planner.errors import UsageError
from planner.model_files import known_models
from planner.plan import Reason, layout_to_json
from planner.problem import Problem
from planner.report.answer import FORMAT_VERSION
from planner.report.json_ import as_json as json_text
from planner.run import Run, read_run
from planner.step_time import StepTime

RUN = "run.json"
FOLDERS_ABOVE = 3  # of a log, in which its run.json is looked for
DATA_TIMER = "batch-generator"  # of Megatron, at timing_log_level 2
UNEXPLAINED = 3.0  # times the error of a prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A log, its run, and the problem that the run was planned for."""

    log: LogFile
    run: Run
    run_path: Path
    problem: Problem
    measured: Measured | None  # None: memory ran out before there were enough steps

    @property
    def data_seconds(self) -> float:
        """Of a step, waiting for data, where the log tells; 0 where it does not."""
        seconds = self.log.timers_seconds.get(DATA_TIMER, 0.0)
        return seconds if self.measured and seconds < self.measured.step_seconds / 2 else 0.0

    def predicted(self, calibration: Calibration | None = None) -> StepTime:
        """The terms of a step; as the topology is calibrated if nothing else is said."""
        calibration = calibration or self.problem.cluster.calibration
        return step_time(self.problem, self.run.plan.layout, calibration)

    def predicted_seconds(self, calibration: Calibration) -> float:
        """Of a step."""
        return self.predicted(calibration).total


def run_calibrate(
    logs: Sequence[Path],
    runs: Sequence[Path],
    *,
    topology: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Reads logs, fits factors, prints all, and writes the new topology file where one is wanted.

    Raises UsageError: calibrate.*, output.*, file.*, and those of `read_run` and topologies.
    """
    trained = trained_runs(logs, runs, topology)
    name = topology or str(trained[0].run.asked.topology if trained[0].run.asked else "")
    found = fitted(trained)
    text = overlay_text(found, name, output, source_of(trained)) if found else None
    if output is not None:
        if text is None:
            raise UsageError("calibrate.nothing_to_write", path=output)
        write_new_file(output, text)
    content = to_json(trained, found, name, text, output)
    if as_json:
        write_output(json_text(content))
        return
    from planner.report.calibration import calibration_text

    next_step = plan_with("--topology", output) if output is not None else None
    write_output(calibration_text(content, next_step, terminal_width()))


def trained_runs(logs: Sequence[Path], runs: Sequence[Path], topology: str | None) -> list[Trained]:
    """Every log with its run. Raises UsageError: see `run_calibrate`."""
    if len(runs) not in (0, 1, len(logs)):
        raise UsageError("calibrate.runs", runs=len(runs), logs=len(logs))
    folders = list(runs) * len(logs) if len(runs) == 1 else runs or [_beside(log) for log in logs]
    found: list[Trained] = []
    for path, folder in zip(logs, folders, strict=True):
        log, run, run_path = read_log(path), read_run(folder), folder / RUN
        problem = problem_of(run, run_path, topology)
        if found and topology is None and problem.cluster.name != found[0].problem.cluster.name:
            names = (found[0].problem.cluster.name, problem.cluster.name)
            raise UsageError("calibrate.two_topologies", one=names[0], other=names[1])
        found.append(
            Trained(
                log=log,
                run=run,
                run_path=run_path,
                problem=problem,
                measured=_measured(log, int(run.recipe.save_steps)),
            )
        )
    return found


def _beside(log: Path) -> Path:
    """The run folder of a log, its own folder or one above. Raises UsageError: calibrate.no_run."""
    above = list(log.absolute().parents)[:FOLDERS_ABOVE]
    for folder in (*list(log.parents)[:FOLDERS_ABOVE], *above):  # as it was typed, if it can be
        if (folder / RUN).is_file():
            return folder
    raise UsageError("calibrate.no_run", path=log)


def _measured(log: LogFile, save_steps: int) -> Measured | None:
    try:
        return measured(log.steps, save_steps=save_steps, path=log.path)
    except UsageError:
        if log.out_of_memory is None:
            raise
        return None


def fitted(trained: Sequence[Trained]) -> Fit | None:
    """Factors of all logs with enough steps; None: there are none."""
    observed = [
        Observed(
            predict=each.predicted_seconds,
            seconds=each.measured.step_seconds - each.data_seconds,
            relative_noise=each.measured.relative_noise,
        )
        for each in trained
        if each.measured is not None
    ]
    return fit(observed, trained[0].problem.cluster.calibration) if observed else None


def source_of(trained: Sequence[Trained]) -> str:
    """Where the factors come from, as a topology file says it."""
    counted = [each for each in trained if each.measured is not None]
    steps = sum(each.measured.counted for each in counted if each.measured)
    layouts = len({str(each.run.plan.layout) for each in counted})
    stack = trained[0].run.stack
    return (
        f"plan calibrate: {_count(steps, 'step')} of {_count(len(counted), 'log')}, "
        f"{_count(layouts, 'layout')}, ms-swift {stack.ms_swift}, megatron-core "
        f"{stack.megatron_core}"
    )


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def to_json(
    trained: Sequence[Trained],
    found: Fit | None,
    topology: str,
    overlay: str | None,
    output: Path | None,
) -> dict[str, Any]:
    """The answer as plain values: bytes, seconds and factors."""
    return {
        "format_version": FORMAT_VERSION,
        "topology": topology,
        "logs": [_log_to_json(each, found, topology) for each in trained],
        "factors": [asdict(factor) for factor in found.factors] if found else [],
        "untold": [reason.to_json() for reason in untold(trained, found)],
        "overlay": overlay,
        "output": str(output) if output is not None else None,
    }


def _log_to_json(each: Trained, found: Fit | None, topology: str) -> dict[str, Any]:
    plan, seen = each.run.plan, each.measured
    predicted = each.predicted()
    return {
        "log": str(each.log.path),
        "run": str(each.run_path),
        "model": each.run.model.name,
        "layout": layout_to_json(plan.layout),
        "predicted": {
            "step_seconds": {**predicted.by_category(), "total": predicted.total},
            "reserved_bytes": _reserved(each),
        },
        "fitted": _fitted(each, found),
        "measured": None if seen is None else _measured_to_json(each, seen),
        "out_of_memory": _out_of_memory(each, topology),
    }


def _reserved(each: Trained) -> float:
    """Of the rank whose memory is logged: the fullest, or by ms-swift before 4.0 the last."""
    reserved = [float(stage.memory_bytes["peak_reserved"]) for stage in each.run.plan.stages]
    return reserved[-1] if each.run.stack.dialect.startswith("3.") else max(reserved)


def _fitted(each: Trained, found: Fit | None) -> dict[str, float] | None:
    if found is None or each.measured is None:
        return None
    time = each.predicted(found.calibration)
    unexplained = each.measured.step_seconds - each.data_seconds - time.total
    return {**time.by_category(), "total": time.total, "unexplained": unexplained}


def _measured_to_json(each: Trained, seen: Measured) -> dict[str, Any]:
    timers = each.log.timers_seconds
    saving, save_steps = seen.saving_seconds, int(each.run.recipe.save_steps)
    return {
        "step_seconds": seen.step_seconds,
        "low_seconds": seen.low_seconds,
        "high_seconds": seen.high_seconds,
        "counted": seen.counted,
        "dropped": [reason.to_json() for reason in seen.dropped],
        "saving_seconds": saving,
        "saving_seconds_per_step": None if saving is None else saving / save_steps,
        "data_seconds": timers.get(DATA_TIMER),
        "timers_seconds": timers,
        "reserved_bytes": seen.memory_bytes,
    }


def untold(trained: Sequence[Trained], found: Fit | None) -> list[Reason]:
    """What the logs do not allow to say, in sentences."""
    counted = [each for each in trained if each.measured is not None]
    reasons = []
    if counted and not any(DATA_TIMER in each.log.timers_seconds for each in counted):
        reasons.append(Reason("calibrate.untold_data", {"timer": DATA_TIMER}))
    if any(each.measured and each.measured.saving_seconds is None for each in counted):
        reasons.append(Reason("calibrate.untold_saving", {}))
    if len({str(each.run.plan.layout) for each in counted}) == 1 and found:
        names = ", ".join(factor.name for factor in found.factors)
        reasons.append(Reason("calibrate.one_layout", {"names": names}))
    for factor in found.factors if found else []:
        if factor.at_bound:
            reasons.append(Reason("calibrate.at_bound", {"name": factor.name}))
    for each in counted:
        reasons += _doubts(each, found)
    return reasons


def _doubts(each: Trained, found: Fit | None) -> list[Reason]:
    """What is doubtful of one log."""
    seen, name = each.measured, each.log.path.name
    reasons: list[Reason] = []
    if seen is None or found is None:
        return reasons
    if seen.counted < TRUSTED_STEPS:
        values = {"log": name, "counted": seen.counted, "least": TRUSTED_STEPS}
        reasons.append(Reason("calibrate.few_steps", values))
    error = max(ASSUMED_MODEL_ERROR, seen.relative_noise)
    fitted_seconds = each.predicted(found.calibration).total + each.data_seconds
    left = abs(seen.step_seconds / fitted_seconds - 1)
    if left > UNEXPLAINED * error:
        reasons.append(Reason("calibrate.unexplained", {"log": name, "percent": 100 * left}))
    planned = float(each.run.plan.step_seconds.get("total", 0.0))
    if planned and abs(each.predicted().total / planned - 1) > ASSUMED_MODEL_ERROR:
        values = {"planned": planned, "now": each.predicted().total}
        reasons.append(Reason("calibrate.predicted_before", {"log": name, **values}))
    return reasons


def _out_of_memory(each: Trained, topology: str) -> dict[str, Any] | None:
    """What ran out of memory, and what to change."""
    error = each.log.out_of_memory
    if error is None:
        return None
    layout, problem = each.run.plan.layout, each.problem
    rank_known = error.rank is not None and error.rank < layout.world_size
    stage = stage_of(error.rank, layout) if rank_known and error.rank is not None else None
    stages = each.run.plan.stages if stage is None else [each.run.plan.stages[stage]]
    predicted = max(predicted_bytes(one.memory_bytes, error.when) for one in stages)
    others = others_bytes(error, max(float(one.memory_bytes["nccl"]) for one in stages))
    missing = missing_bytes(error, predicted, others)
    alone = fits_alone(error, others)  # no change of the run is needed
    rung = None if alone else next_rung(problem, layout, error, missing)
    known = {model.name for model in known_models()}
    model = each.run.model.name if each.run.model.name in known else each.run.site.model_path
    return {
        **asdict(error),
        "frames": list(error.frames),
        "stage": stage,
        "needed_bytes": error.needed_bytes,
        "predicted_bytes": predicted,
        "missing_bytes": missing,
        "others_bytes": others,
        "fits_alone": alone,
        "ways": [way.to_json() for way in ways_out(error, others, each.run.load)],
        "fragmented": bool(
            error.unallocated_bytes
            and error.tried_bytes
            and error.unallocated_bytes >= error.tried_bytes
        ),
        "rung": rung
        and {
            "kind": rung.kind,
            "layout": layout_to_json(rung.layout),
            "device_bytes": rung.device_bytes,
            "step_seconds": rung.step_seconds,
            "arguments": changed_arguments(each.run, problem, rung),
            "command": check_command(problem, rung, topology, model),
        },
        "usable_bytes": problem.cluster.gpu.memory_usable_bytes,
        "step_seconds": batch_view(problem, layout).step_seconds(layout.recompute),
    }
