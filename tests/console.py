"""Runs `plan` in this process, through its console entry."""

import gc
import io
import json
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock

from planner.entry import main

EXAMPLE = ("--gpus", "16", "--nodes", "2", "--model", "Qwen3-30B-A3B")


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


def plan(*words: object, columns: int = 100, env: Mapping[str, str] | None = None) -> Ran:
    """Return what `plan WORD...` does on a terminal of so many columns, into pipes."""
    out, err = io.StringIO(), io.StringIO()
    variables = {"COLUMNS": str(columns), **(env or {})}
    argv = ["plan", *map(str, words)]
    status: object = None
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.object(sys, "argv", argv),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            status = ended.code
        finally:
            gc.enable()
    assert isinstance(status, int), f"plan ended with {status!r}"
    return Ran(status, out.getvalue(), err.getvalue())
