"""What a run folder remembers of its last submission, so that a cut off one is found again."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from launch.jobs import BackendName
from planner.errors import UsageError
from planner.yaml_files import one_line

NAME = "submission.json"
LOCK = ".submission.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Written before a job is started, without a handle; and again, when its handle is known."""

    backend: BackendName
    id: str
    hosts: tuple[str, ...] = ()  # plain hosts, of the site or of the command line
    handle: str | None = None
    stopped: bool = False  # by moe-launch stop


@contextmanager
def submitting(run_folder: Path) -> Iterator[None]:
    """Keeps other submissions of a run away; a process that is killed lets go.

    Where the storage has no locks, nothing is kept away. Raises UsageError: submit.at_once,
    submit.unrecorded.
    """
    path = run_folder / LOCK
    try:
        lock = path.open("a")
    except OSError as error:
        raise _unrecorded(path, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError("submit.at_once", path=run_folder) from None
        except OSError:
            pass
        yield


def new_id() -> str:
    """Eight characters that no other submission has."""
    return secrets.token_hex(4)


def read_submission(run_folder: Path) -> Submission | None:
    """The last one; None before the first.

    Raises UsageError: file.unreadable, file.not_json.
    """
    path = run_folder / NAME
    try:
        return TypeAdapter(Submission).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError("file.unreadable", path=path, reason=reason) from None
    except ValidationError as error:
        reason = one_line(error.errors(include_url=False)[0]["msg"])
        raise UsageError("file.not_json", path=path, reason=reason) from None


def write_submission(run_folder: Path, submission: Submission) -> None:
    """Writes it, whole, to the disk itself: the next step cannot be undone.

    Raises UsageError: submit.unrecorded.
    """
    path = run_folder / NAME
    partial = path.with_name(f".partial.{NAME}")
    try:
        with partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(asdict(submission), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise _unrecorded(path, error) from None


def forget_submission(run_folder: Path, previous: Submission | None) -> None:
    """Goes back to the submission before. Raises UsageError: submit.unrecorded."""
    if previous is not None:
        write_submission(run_folder, previous)
        return
    path = run_folder / NAME
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unrecorded(path, error) from None


def _unrecorded(path: Path, error: OSError) -> UsageError:
    reason = (error.strerror or str(error)).lower()
    return UsageError("submit.unrecorded", path=path, reason=reason)
