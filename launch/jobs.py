"""What all backends have in common: handles, states and what a backend can do."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from planner.errors import UsageError
from planner.yaml_files import shortened


class BackendName(StrEnum):
    """Where a run is submitted to."""

    HOSTS = "hosts"
    DLC = "dlc"


class State(StrEnum):
    """How far a job, or one node of it, is."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"  # it was running, and does not answer any more

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self in (State.SUCCEEDED, State.FAILED, State.STOPPED)


class UnknownJobError(UsageError):
    """No such job is there, or none any more."""


@dataclass(frozen=True, slots=True)
class Handle:
    """The name of a submitted job: `dlc://ID`, or `hosts://RUN-FOLDER#ID`."""

    backend: BackendName
    name: str

    def __str__(self) -> str:
        return f"{self.backend}://{self.name}"


def parse_handle(text: str) -> Handle:
    """The handle that `str` gave. Raises UsageError: job.bad_handle."""
    backend, separator, name = text.partition("://")
    if not separator or not name or backend not in tuple(BackendName):
        raise UsageError("job.bad_handle", handle=shortened(text))
    return Handle(BackendName(backend), name)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node of a job: a host or a pod."""

    name: str
    state: State
    detail: str = ""  # why, in the words of what runs it


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job and its nodes."""

    state: State
    nodes: tuple[NodeStatus, ...]
    detail: str = ""
    events: tuple[str, ...] = ()


class Backend(Protocol):
    """A client of what runs jobs. Its renderer, if it has one, writes a file of the run folder."""

    def shown(self) -> str:
        """What will be sent, for a person to agree to."""

    def check(self) -> None:
        """Looks whether the job can be sent, and starts nothing."""

    def submit(self, submission_id: str) -> Handle:
        """Starts the job; a UsageError means that there is none.

        `submission_id` is new, and tells it from all others.
        """

    def recover(self, submission_id: str) -> Handle | None:
        """The job of a submission that was cut off; None where there is none, or none any more."""

    def status(self, handle: Handle) -> JobStatus:
        """What becomes of a job."""

    def logs(self, handle: Handle, *, node: int, lines: int, follow: bool) -> Iterator[str]:
        """What a node printed, piece by piece."""

    def stop(self, handle: Handle) -> JobStatus:
        """Ends a job, and says what it is then."""


def state_of_all(states: list[State]) -> State:
    """The state of a job from those of its nodes: the worst that is known, else the least far."""
    for state in (State.FAILED, State.LOST, State.STOPPED, State.RUNNING, State.WAITING):
        if state in states:
            return state
    return State.SUCCEEDED
