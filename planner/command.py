"""Runs a command-line application, so that a user's mistake ends in a sentence, not a traceback."""

import sys
from typing import Any, NoReturn

import typer

from planner.errors import PlannerError, UsageError

# The class of all usage errors; typer exports only its children, and brings its own click or not.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]


def run_app(app: typer.Typer, *, as_json: bool = False) -> NoReturn:
    """Runs the application and ends the program with its exit status.

    `as_json` writes failures as one JSON object on standard output, as the contract says.
    """
    try:
        status = app(standalone_mode=False)
    except PlannerError as error:
        sys.exit(_fail(error, as_json))
    except _UsageError as error:
        hint = f"{error.ctx.command_path} --help" if error.ctx else "--help"
        reason = error.format_message().rstrip(".")
        usage = UsageError("input.usage", reason=reason[:1].lower() + reason[1:], help=hint)
        sys.exit(_fail(usage, as_json))
    except typer.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(error: PlannerError, as_json: bool) -> int:
    if as_json:
        from planner.report.answer import error_to_json
        from planner.report.json_ import as_json as text

        print(text(error_to_json(error)))
    else:
        line = "; ".join(filter(None, [error.message, error.fix]))
        print(f"error: {line}", file=sys.stderr)
    return error.exit_status
