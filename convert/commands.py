"""`moe-convert plan`, `verify` and `first-layers`: what they are asked, and what they print."""

import time
from pathlib import Path

from convert.adapters import is_adapter
from convert.findings import Verdict
from convert.torch_dist import is_torch_dist
from convert.verify import verify_adapter, verify_hf, verify_torch_dist
from planner.command import terminal_width, write_output
from planner.errors import UsageError
from planner.report.answer import FORMAT_VERSION
from planner.report.conversion import (
    plan_text,
    plan_to_json,
    verification_text,
    verification_to_json,
)
from planner.report.json_ import as_json as json_text
from planner.run import read_run

DAMAGED = UsageError.exit_status  # what was given cannot be used


def run_plan(run_folder: Path, *, as_json: bool) -> None:
    """Prints what each way of converting the weights of a run takes.

    Raises UsageError: those of `read_run`.
    """
    from convert.ways import conversion_plan

    plan = conversion_plan(read_run(run_folder))
    if as_json:
        write_output(json_text(plan_to_json(plan.to_json(), plan.assumptions)))
    else:
        write_output(plan_text(plan.to_json(), plan.assumptions, terminal_width()))


def run_verify(
    checkpoint: Path,
    *,
    source: Path | None,
    trained: bool,
    adapter: Path | None,
    as_json: bool,
) -> int:
    """Prints the verification of a checkpoint and gives the exit status.

    Raises UsageError: convert.needs, convert.only_hf, convert.only_model, convert.one_of, those of
    `verify_hf` and `verify_adapter`.
    """
    for flag, given in (("--trained", trained), ("--adapter", adapter is not None)):
        if given and source is None:
            raise UsageError("convert.needs", flag=flag, needs="--source")
        if given and is_torch_dist(checkpoint):
            raise UsageError("convert.only_hf", flag=flag, path=checkpoint)
        if given and is_adapter(checkpoint):
            raise UsageError("convert.only_model", flag=flag, path=checkpoint)
    if trained and adapter is not None:
        raise UsageError("convert.one_of", flag="--trained", other="--adapter")
    started = time.perf_counter()
    if is_torch_dist(checkpoint):
        result = verify_torch_dist(checkpoint, source=source)
    elif is_adapter(checkpoint):
        result = verify_adapter(checkpoint, source=source)
    else:
        result = verify_hf(checkpoint, source=source, trained=trained, adapter=adapter)
    seconds = time.perf_counter() - started
    if as_json:
        write_output(json_text(verification_to_json(result.to_json(), seconds)))
    else:
        write_output(verification_text(result.to_json(), seconds, terminal_width()))
    return DAMAGED if result.verdict is Verdict.DAMAGED else 0


def run_first_layers(model: Path, target: Path, *, layers: int | None, as_json: bool) -> None:
    """Writes a model of the first layers and says how large it is.

    Raises UsageError: those of `write_first_layers`.
    """
    from convert.first_layers import write_first_layers

    tensors = write_first_layers(model, target, layers)
    if as_json:
        answer = {"format_version": FORMAT_VERSION, "target": str(target), "tensors": tensors}
        write_output(json_text(answer))
    else:
        write_output(f"{tensors} tensors written to {target}\n")
