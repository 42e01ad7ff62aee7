"""`moe-convert verify`: chooses the check by what lies in the folder, and prints what it found."""

import time
from pathlib import Path

from convert.findings import Verdict, Verification
from convert.torch_dist import is_torch_dist
from convert.verify import verify_hf, verify_torch_dist
from planner.command import terminal_width, write_output
from planner.errors import UsageError

DAMAGED = UsageError.exit_status  # what was given cannot be used


def run_verify(checkpoint: Path, *, source: Path | None, trained: bool, as_json: bool) -> int:
    """Prints the verification of a checkpoint and gives the exit status.

    Raises UsageError: convert.needs, convert.only_hf, those of `verify_hf`.
    """
    if trained and source is None:
        raise UsageError("convert.needs", flag="--trained", needs="--source")
    started = time.perf_counter()
    result = _verify(checkpoint, source=source, trained=trained)
    seconds = time.perf_counter() - started
    if as_json:
        from planner.report.conversion import verification_to_json
        from planner.report.json_ import as_json as text

        write_output(text(verification_to_json(result.to_json(), seconds)))
    else:
        from planner.report.conversion import verification_text

        write_output(verification_text(result.to_json(), seconds, terminal_width()))
    return DAMAGED if result.verdict is Verdict.DAMAGED else 0


def _verify(checkpoint: Path, *, source: Path | None, trained: bool) -> Verification:
    if is_torch_dist(checkpoint):
        if trained:
            raise UsageError("convert.only_hf", flag="--trained", path=checkpoint)
        return verify_torch_dist(checkpoint, source=source)
    return verify_hf(checkpoint, source=source, trained=trained)
