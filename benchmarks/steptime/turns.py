"""Runs that wait for one another: files in a run's folder say how far it is and what it may do.

A rank says that it has imported the stack, built its model and taken its steps (`Said`); what
starts it says when it may build and when it may train (`May`).
"""

import os
import time
from enum import StrEnum
from pathlib import Path

FOLDER = "TURNS_FOLDER"  # the environment variable that names it to a rank
POLL_SECONDS = 0.05


class Said(StrEnum):
    """What a rank says."""

    IMPORTED = "imported"
    BUILT = "built"
    TRAINED = "trained"


class May(StrEnum):
    """What a run is allowed."""

    BUILD = "may-build"
    TRAIN = "may-train"


def of_this_rank() -> Path:
    """The folder of the run that this process is a rank of."""
    return Path(os.environ[FOLDER])


def say(what: Said) -> None:
    """Let a rank say something of itself."""
    (of_this_rank() / f"{what}{os.environ['RANK']}").touch()


def all_said(folder: Path, what: Said, ranks: int) -> bool:
    """Whether every rank of a run did."""
    return all((folder / f"{what}{rank}").exists() for rank in range(ranks))


def allow(folder: Path, what: May) -> None:
    """Let the ranks of a run go on."""
    (folder / what).touch()


def allowed(folder: Path, what: May) -> bool:
    """Whether they were let."""
    return (folder / what).exists()


def await_turn(what: May) -> None:
    """Let a rank wait until it may."""
    while not allowed(of_this_rank(), what):
        time.sleep(POLL_SECONDS)
