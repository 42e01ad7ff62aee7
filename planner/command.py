"""Runs a command-line application, so that a user's mistake ends in a sentence, not a traceback."""

import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from planner.errors import EnvironmentLacksError, PlannerError, UsageError

WIDEST = 100  # columns; longer lines are hard to read

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]

# The class of all usage errors; typer exports only its children, and brings its own click or not.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]


# The sentence about an option that a user typed, given the option, whether the application has it,
# and what is wrong with it; None: what is wrong says enough.
Explain = Callable[[str, bool, str], UsageError | None]


def run_app(
    app: typer.Typer, *, as_json: bool = False, explain: Explain = lambda *_: None
) -> NoReturn:
    """Runs the application and ends the program with its exit status.

    `as_json` writes failures as one JSON object on standard output, as the contract says. `explain`
    may know better what an unknown option, or a known one with a bad value, was meant to be.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path need not be text
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(app, as_json, explain))


def write_output(text: str) -> None:
    """Write an answer to standard output, all of it; ends the program if nobody reads it any more.

    Raises EnvironmentLacksError: output.unwritable.
    """
    if sys.stdout is None:
        raise EnvironmentLacksError("output.unwritable", reason="it is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes what is left once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise EnvironmentLacksError("output.unwritable", reason=reason) from None


def terminal_width() -> int:
    """Columns of the terminal, `WIDEST` at most; of a pipe, `WIDEST`."""
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)


def quoted(word: str) -> str:
    """A word as the shell reads it; what a terminal would obey is escaped ($'...' of bash)."""
    return shlex.quote(word) if word.isprintable() else f"${word!r}"


def plan_with(flag: str, path: Path) -> str:
    """The command that plans with a file, named so that the flag reads it as one."""
    from planner.yaml_files import looks_like_path

    name = str(path)
    file = quoted(name if looks_like_path(name) else f"./{name}")
    return f"plan {flag} {file} --gpus N --model MODEL"


def _run(app: typer.Typer, as_json: bool, explain: Explain) -> int:
    try:
        status = app(standalone_mode=False)
    except PlannerError as error:
        return _fail(error, as_json)
    except _UsageError as error:
        return _fail(_usage_error(error, explain), as_json)
    except typer.Abort:
        return 128 + signal.SIGINT
    return status if isinstance(status, int) else 0


def _usage_error(error: Any, explain: Explain) -> UsageError:
    """What typer refused, as one of our errors."""
    hint = f"{error.ctx.command_path} --help" if error.ctx else "--help"
    reason = error.format_message().rstrip(".").replace("Value error, ", "")
    reason = reason[:1].lower() + reason[1:]
    # Classes that typer does not export say which option it is, and that it is unknown.
    opts = getattr(getattr(error, "param", None), "opts", [""])
    option = getattr(error, "option_name", opts[0])
    told = explain(option, not hasattr(error, "possibilities"), reason) if option else None
    return told or UsageError("input.usage", reason=reason, help=hint)


def _fail(error: PlannerError, as_json: bool) -> int:
    """Says what is wrong; gives the exit status."""
    if as_json and error.message_id != "output.unwritable":
        from planner.report.answer import error_to_json
        from planner.report.json_ import as_json as text

        write_output(text(error_to_json(error)))
    else:
        for line in error.lines:
            print(" ".join(line.split()), file=sys.stderr)
    return error.exit_status
