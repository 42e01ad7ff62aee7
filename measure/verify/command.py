"""`plan verify`: one rank of a run, measured on the GPU of this machine beside its prediction."""

import gc
import importlib.util
import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure.verify.row import Row
from planner.command import write_output
from planner.dialects import argv, load_dialect, model_hint, translate
from planner.errors import EnvironmentLacksError, UsageError
from planner.plan import StagePlan
from planner.run import Run, read_run
from planner.units import GIB
from planner.yaml_files import one_line

DOCUMENTS_PER_PACK = 4  # assumed of the data; none other was measured to matter
NEEDED = ("torch", "swift", "mcore_bridge", "megatron.core", "transformer_engine")
MOMENTS = {  # of a stage's memory, as the plan and the measuring name them
    "after_build": "after building",
    "steady": "between steps",
    "peak_allocated": "peak allocated",
    "peak_reserved": "peak reserved",
    "device_used": "device use, without NCCL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A quantity as predicted and as measured: bytes, seconds or a number."""

    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1


def run_verify(run_folder: Path, *, stage: int | None, trace: bool, as_json: bool) -> None:
    """Measures a stage's worst rank and prints it beside the prediction.

    Raises UsageError: those of `read_run`, verify.no_stage, verify.no_config;
    EnvironmentLacksError: verify.no_stack, verify.no_gpu, verify.failed.
    """
    run = read_run(run_folder)
    chosen = stage_of(run, stage)
    row = row_of(run, chosen, model_config(run))
    check_machine()
    gc.enable()  # as a run has it: `plan` goes without
    with redirect_stdout(sys.stderr):  # the stack prints too
        from measure.verify.rank import measure, prepare

        prepare()
        result = measure(row, traced=trace)
    if not result["ok"]:
        raise EnvironmentLacksError("verify.failed", rank=row.rank, reason=result["error"])
    write_output(to_json(chosen, row, result) if as_json else to_text(run, chosen, row, result))


def stage_of(run: Run, number: int | None) -> StagePlan:
    """The stage of this number, or the one that is predicted to be the fullest.

    Raises UsageError: verify.no_stage.
    """
    stages = run.plan.stages
    if number is None:
        return max(stages, key=lambda stage: float(stage.memory_bytes["peak_reserved"]))
    if number >= len(stages):
        raise UsageError("verify.no_stage", stage=number, last=len(stages) - 1)
    return stages[number]


def model_config(run: Run) -> dict[str, Any]:
    """The config.json of the run's model folder. Raises UsageError: verify.no_config."""
    path = Path(run.site.model_path) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError("verify.no_config", path=path, reason=reason) from None
    except (ValueError, RecursionError) as error:
        raise UsageError("verify.no_config", path=path, reason=one_line(error)) from None
    if not isinstance(content, dict):
        raise UsageError("verify.no_config", path=path, reason="it is no object")
    return content


def row_of(run: Run, stage: StagePlan, config: dict[str, Any]) -> Row:
    """The row that measures the worst rank of a stage."""
    dialect = run.stack.dialect
    hint = model_hint(run.model.model_type, "", dialect)
    flags = {k: v for k, v in run.plan.args.items() if k not in ("num_train_epochs", "train_iters")}
    divides = run.plan.args["max_length"] % (2 * DOCUMENTS_PER_PACK * run.plan.layout.cp) == 0
    return Row(
        id=run.model.name,
        family=run.model.model_type,
        set_aside=False,
        world_size=run.plan.layout.world_size,
        rank=stage.worst_rank,
        stage=str(stage.stage),
        config=config,
        model_type=run.site.model_type or (hint.model_type if hint else run.model.model_type),
        template=run.site.template or (hint.template if hint else run.model.model_type),
        argv=argv(translate(flags, load_dialect(dialect))),
        documents_per_pack=DOCUMENTS_PER_PACK if divides else 1,
    )


def check_machine() -> None:
    """Checks for the training stack and a GPU.

    Raises EnvironmentLacksError: verify.no_stack, verify.no_gpu.
    """
    missing = [name for name in NEEDED if not _is_installed(name)]
    if missing:
        raise EnvironmentLacksError("verify.no_stack", missing=", ".join(missing))
    import torch

    if not torch.cuda.is_available():
        raise EnvironmentLacksError("verify.no_gpu")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def compared(stage: StagePlan, result: dict[str, Any]) -> dict[str, Compared]:
    """What was predicted of a stage beside what was measured of its rank."""
    memory, after_build = stage.memory_bytes, result["after_build"]["allocated"]
    measured = {**result, "after_build": after_build}
    predicted = {name: float(memory[name]) for name in MOMENTS}
    predicted["device_used"] -= float(memory.get("nccl", 0))  # no other rank is there
    pairs = {name: (predicted[name], float(measured[name])) for name in MOMENTS}
    pairs["parameters"] = (stage.parameters, result["parameters"])
    pairs["compute_seconds"] = (stage.compute_seconds, result["compute_seconds"])
    return {name: Compared(predicted=p, measured=m) for name, (p, m) in pairs.items()}


def to_json(stage: StagePlan, row: Row, result: dict[str, Any]) -> str:
    """One JSON object: bytes and seconds, and the result as it was measured."""
    quantities = {
        name: {"predicted": each.predicted, "measured": each.measured, "error": each.error}
        for name, each in compared(stage, result).items()
    }
    content = {
        "rank": row.rank,
        "stage": stage.stage,
        "compared": quantities,
        "predicted_terms": stage.terms,
        "measured": result,
    }
    return json.dumps(content, indent=2) + "\n"


def to_text(run: Run, stage: StagePlan, row: Row, result: dict[str, Any]) -> str:
    """What was predicted and measured, a line a moment, then the predicted terms at the peak and
    the largest tensors that were found there."""
    pairs = compared(stage, result)
    stages = len(run.plan.stages)
    lines = [
        f"{run.model.name}: rank {row.rank} of {row.world_size}, stage {stage.stage} of {stages}",
        "",
        f"{'':<34}{'predicted':>12}{'measured':>12}{'error':>9}",
        _line("parameters, billions", pairs["parameters"], 1e9, 3),
        *(_line(f"{title}, GiB", pairs[name], GIB, 2) for name, title in MOMENTS.items()),
        _line("compute of a step, s", pairs["compute_seconds"], 1.0, 3),
        "",
        f"predicted at the peak ({stage.memory_bytes['peak_moment']}), GiB",
    ]
    terms = sorted(stage.terms.items(), key=lambda term: -term[1])
    lines += [f"{size / GIB:10.2f}  {name}" for name, size in terms if size >= GIB / 100]
    if "trace" in result:
        lines += ["", "measured at the peak beside what was there between steps, GiB"]
        lines += [f"{size / GIB:10.2f}  {site}" for size, _, site in result["trace"]["at_peak"]]
    return "\n".join(lines) + "\n"


def _line(title: str, pair: Compared, unit: float, decimals: int) -> str:
    sizes = (f"{value / unit:>12.{decimals}f}" for value in (pair.predicted, pair.measured))
    return f"{title:<34}" + "".join(sizes) + f"{pair.error:>+9.1%}"
