"""The backend of PAI-DLC: one job, never two."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.dlc_client import PAUSES, DlcClient, RefusedError, UnansweredError, connect, refusal
from launch.dlc_schema import MAX_NAME_LENGTH, check_job
from launch.jobs import BackendName, Handle, JobStatus, NodeStatus, State
from planner.errors import EnvironmentLacksError, UsageError
from planner.site import Dlc
from planner.yaml_files import one_line

# The states of a job and of a pod, in PAI-DLC's words.
STATES = {
    **dict.fromkeys(("Creating", "Queuing", "Bidding", "EnvPreparing"), State.WAITING),
    **dict.fromkeys(("SanityChecking", "Created", "Pending", "Initialized"), State.WAITING),
    **dict.fromkeys(("Running", "Restarting", "Stopping", "Starting"), State.RUNNING),
    **dict.fromkeys(("Succeeded", "SucceededReserving"), State.SUCCEEDED),
    **dict.fromkeys(("Failed", "FailedReserving"), State.FAILED),
    "Stopped": State.STOPPED,
}
TAG = "moe-planner-submission"
MOST_LINES = 2000  # that PAI-DLC gives at once
FOLLOW_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DlcBackend:
    """Sends job.json of a run folder; without one, only knows jobs by their handle."""

    dlc: Dlc
    job_file: Path | None
    connect: Callable[[Dlc], DlcClient] = connect

    def shown(self) -> str:
        """The request. Raises UsageError: those of `check_job` and `read_job`."""
        return json.dumps(self._request("ID"), indent=2) + "\n"

    def check(self) -> None:
        """Looks at the request and for credentials.

        Raises UsageError: those of `shown`; EnvironmentLacksError: those of `connect`.
        """
        self._request("ID")
        self.connect(self.dlc)

    def submit(self, submission_id: str) -> Handle:
        """Creates the job. What was refused for haste is asked again; after an answer that leaves
        open whether there is a job, it is looked up by its name first.

        Raises UsageError: dlc.refused; EnvironmentLacksError: dlc.unanswered, those of `connect`.
        """
        request = self._request(submission_id)
        client = self.connect(self.dlc)
        reason = ""
        for seconds in (*PAUSES, None):
            try:
                return Handle(BackendName.DLC, client.create(request))
            except RefusedError as refused:
                if not refused.throttled:
                    raise refusal(refused) from None
                reason = refused.reason
            except UnansweredError as unanswered:
                reason = str(unanswered)
                if found := self._look_up(client, request):
                    return found
            if seconds is not None:
                client.pause(seconds)
        raise EnvironmentLacksError("dlc.unanswered", reason=reason)

    def recover(self, submission_id: str) -> Handle | None:
        """The job of a submission that was cut off.

        Raises UsageError: dlc.refused; EnvironmentLacksError: dlc.unanswered, those of `connect`.
        """
        return self._look_up(self.connect(self.dlc), self._request(submission_id))

    def status(self, handle: Handle) -> JobStatus:
        """The job and its pods, and why, where it waits or failed."""
        client = self.connect(self.dlc)
        job = client.job(handle.name)
        state = _state(job)
        troubled = state in (State.WAITING, State.FAILED)
        return JobStatus(
            state=state,
            detail=_detail(job),
            nodes=tuple(
                NodeStatus(name=pod["PodId"], state=_state(pod), detail=pod.get("SubStatus") or "")
                for pod in _pods(job)
            ),
            events=tuple(map(one_line, client.events(handle.name)[-5:])) if troubled else (),
        )

    def stop(self, handle: Handle) -> JobStatus:
        """Ends the job."""
        self.connect(self.dlc).stop(handle.name)
        return self.status(handle)

    def logs(self, handle: Handle, *, node: int, lines: int, follow: bool) -> Iterator[str]:
        """The lines of a pod. Raises UsageError: job.no_node."""
        client = self.connect(self.dlc)
        pods = _pods(client.job(handle.name))
        if node >= len(pods):
            raise UsageError("job.no_node", node=node, nodes=len(pods))
        pod_id = pods[node]["PodId"]
        shown = client.pod_logs(handle.name, pod_id, min(lines, MOST_LINES))
        yield from (f"{line}\n" for line in shown)
        while follow and not _state(client.job(handle.name)).is_final:
            client.pause(FOLLOW_SECONDS)
            now = client.pod_logs(handle.name, pod_id, MOST_LINES)
            yield from (f"{line}\n" for line in after(shown, now))
            shown = now

    def _look_up(self, client: DlcClient, request: dict[str, Any]) -> Handle | None:
        """The job of a request, if the service has it. A list may lag behind: it is asked twice."""
        for seconds in (None, *PAUSES[:1]):
            if seconds is not None:
                client.pause(seconds)
            jobs = client.jobs_named(request["DisplayName"], request["WorkspaceId"])
            if jobs:
                return Handle(BackendName.DLC, jobs[0]["JobId"])
        return None

    def _request(self, submission_id: str) -> dict[str, Any]:
        """job.json under a name that no other submission has.

        Raises UsageError: file.unreadable, file.not_json, those of `check_job`.
        """
        assert self.job_file is not None
        job = read_job(self.job_file)
        name = job["DisplayName"][: MAX_NAME_LENGTH - len(submission_id) - 1]
        tags = job["Settings"].get("Tags", {}) | {TAG: submission_id}
        settings = job["Settings"] | {"Tags": tags}
        renamed = job | {"DisplayName": f"{name}-{submission_id}", "Settings": settings}
        return check_job(self.job_file, renamed)


def read_job(path: Path) -> dict[str, Any]:
    """The request of a file, checked.

    Raises UsageError: file.unreadable, file.not_json, those of `check_job`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError("file.unreadable", path=path, reason=reason) from None
    except (ValueError, RecursionError) as error:
        raise UsageError("file.not_json", path=path, reason=one_line(error)) from None
    return check_job(path, content)


def after(shown: list[str], now: list[str]) -> list[str]:
    """The lines of `now` that follow those already shown, where the one goes on from the other."""
    for length in range(min(len(shown), len(now)), 0, -1):
        if shown[-length:] == now[:length]:
            return now[length:]
    return now


def _pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods of a job in the order of their nodes: a master first, then workers by number."""

    def rank(pod: dict[str, Any]) -> tuple[bool, int, str]:
        name = str(pod.get("PodId", ""))
        number = re.search(r"(\d+)$", name)
        return "master" not in name, int(number.group()) if number else 0, name

    return sorted(job.get("Pods") or [], key=rank)


def _state(thing: dict[str, Any]) -> State:
    return STATES.get(thing.get("Status") or "", State.LOST)


def _detail(job: dict[str, Any]) -> str:
    """PAI-DLC's own word and its reason."""
    words = [job.get("Status"), job.get("ReasonCode"), job.get("ReasonMessage")]
    return one_line(", ".join(filter(None, words)))
