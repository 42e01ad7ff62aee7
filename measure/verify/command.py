"""`plan verify`: ranks of a run, measured on the GPU of this machine beside their predictions."""

import gc
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import typer

from measure.verify.report import Verified, to_json, to_text
from measure.verify.row import MOST_LEFT_FOR_NEXT_BYTES, Row
from planner.command import write_output
from planner.dialects import argv, load_dialect, model_hint, translate
from planner.errors import EnvironmentLacksError, UsageError
from planner.plan import StagePlan
from planner.run import Run, read_run
from planner.units import GIB
from planner.workload import Workload
from planner.yaml_files import one_line

NEEDED = ("torch", "swift", "mcore_bridge", "megatron.core", "transformer_engine")


def run_verify(
    run_folder: Path, *, stages: Sequence[int], every: bool, trace: bool, as_json: bool
) -> None:
    """Measures the worst ranks of stages, one after the other in this process, and prints each
    beside its prediction when it is there; JSON comes at the end, with the error where one ends it
    early. No stages: the fullest.

    Raises UsageError: those of `read_run`, input.not_together, verify.not_asked, verify.no_stage,
    verify.no_config; EnvironmentLacksError: verify.no_stack, verify.no_gpu, verify.failed,
    verify.left.
    """
    run = read_run(run_folder)
    workload = _workload(run, run_folder)
    chosen = stages_of(run, stages, every=every)
    config = model_config(run)
    rows = [row_of(run, stage, workload, config) for stage in chosen]
    for name, value in run.environment.items():  # before torch is there, which reads some
        os.environ.setdefault(name, value)
    check_machine()
    gc.enable()  # as a run has it: `plan` goes without
    documents = workload.seq_length / workload.document_tokens
    found: list[Verified] = []
    error: EnvironmentLacksError | None = None
    try:
        for stage, row in zip(chosen, rows, strict=True):
            if found:
                _check_given_back(found[-1], row)
            result = _measured(row, first=not found, trace=trace)
            found.append(Verified(stage=stage, row=row, documents=documents, result=result))
            if not as_json:
                write_output("\n" * (len(found) > 1) + to_text(run, found[-1]))
    except EnvironmentLacksError as early:
        if not (as_json and found):
            raise
        error = early
    if as_json:
        write_output(to_json(run, found, error))
    if error:
        raise typer.Exit(error.exit_status)


def _measured(row: Row, *, first: bool, trace: bool) -> dict[str, Any]:
    """What was measured of a row. Raises EnvironmentLacksError: verify.failed."""
    with redirect_stdout(sys.stderr):  # the stack prints too
        from measure.verify.rank import measure, prepare

        if first:
            prepare()
        result = measure(row, traced=trace)
    if not result["ok"]:
        raise EnvironmentLacksError(
            "verify.failed", rank=row.rank, stage=row.stage, reason=result["error"]
        )
    return result


def _check_given_back(before: Verified, row: Row) -> None:
    """Checks that a rank left no memory that the next would be short of.

    Raises EnvironmentLacksError: verify.left.
    """
    left = before.result["left"]
    if not left or left["allocated"] > MOST_LEFT_FOR_NEXT_BYTES:
        size = f"{left['allocated'] / GIB:.2f} GiB" if left else "an unknown part"
        raise EnvironmentLacksError(
            "verify.left", size=size, before=before.row.stage, stage=row.stage
        )


def _workload(run: Run, run_folder: Path) -> Workload:
    """What the run was planned for. Raises UsageError: verify.not_asked."""
    if run.asked is None:
        raise UsageError("verify.not_asked", path=run_folder)
    return run.asked.workload


def stages_of(run: Run, numbers: Sequence[int], *, every: bool = False) -> list[StagePlan]:
    """The stages of these numbers, each once, or all; where none is named, the one that is
    predicted to be the fullest.

    Raises UsageError: input.not_together, verify.no_stage.
    """
    stages = run.plan.stages
    if every and numbers:
        raise UsageError("input.not_together", flag="--every-stage", other="--stage")
    if every:
        return stages
    if not numbers:
        return [max(stages, key=lambda stage: float(stage.memory_bytes["peak_reserved"]))]
    for number in numbers:
        if number >= len(stages):
            raise UsageError("verify.no_stage", stage=number, last=len(stages) - 1)
    return [stages[number] for number in dict.fromkeys(numbers)]


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


def row_of(run: Run, stage: StagePlan, workload: Workload, config: dict[str, Any]) -> Row:
    """The row that measures the worst rank of a stage under what its plan is for: its experts at
    the planned imbalance, documents as long as planned."""
    dialect, layout = run.stack.dialect, run.plan.layout
    hint = model_hint(run.model.model_type, "", dialect)
    flags = {k: v for k, v in run.plan.args.items() if k not in ("num_train_epochs", "train_iters")}
    # as planner.layer_view has it: with all tokens on one of EP ranks, its load is EP
    load = min(workload.routing_imbalance, layout.ep) if run.model.is_moe else 1.0
    return Row(
        id=run.model.name,
        family=run.model.model_type,
        set_aside=False,
        world_size=layout.world_size,
        rank=stage.worst_rank,
        stage=str(stage.stage),
        config=config,
        model_type=run.site.model_type or (hint.model_type if hint else run.model.model_type),
        template=run.site.template or (hint.template if hint else run.model.model_type),
        argv=argv(translate(flags, load_dialect(dialect))),
        documents_per_pack=documents_per_pack(workload, layout.cp),
        expert_load=load,
    )


def documents_per_pack(workload: Workload, cp: int) -> int:
    """How many equal documents are nearest to the planned length: they fill a pack, and CP parts
    each in 2 * cp pieces (`measure.verify.packs`)."""
    pack = workload.seq_length
    lengths = [each for each in range(2 * cp, pack + 1, 2 * cp) if pack % each == 0]
    nearest = min(lengths, key=lambda each: abs(each - workload.document_tokens), default=pack)
    return pack // nearest


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
