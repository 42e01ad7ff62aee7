"""Runs a command-line application, so that a user's mistake ends in a sentence, not a traceback."""

import sys
from typing import NoReturn

import typer

from planner.errors import PlannerError


def run_app(app: typer.Typer) -> NoReturn:
    """Runs the application and ends the program with its exit status."""
    try:
        app()
    except PlannerError as error:
        print("error: " + "; ".join(filter(None, [error.message, error.fix])), file=sys.stderr)
        sys.exit(error.exit_status)
    sys.exit(0)
