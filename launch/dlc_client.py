"""PAI-DLC's official SDK, with retries that can never start a second job.

Credentials come from the SDK's own chain: variables, OIDC, the CLI's profile, an instance's role.
They are never read here, never written and never shown.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from launch.jobs import UnknownJobError
from launch.text import comment
from planner.errors import EnvironmentLacksError, UsageError
from planner.site import Dlc

Answer = TypeVar("Answer")

CONNECT_MILLISECONDS = 10_000
READ_MILLISECONDS = 60_000
# Seconds before each repetition of what may be repeated.
PAUSES = (1, 2, 4, 8)
LONGEST_REASON = 300
HTTP_NOT_FOUND = 404
HTTP_TOO_MANY = 429


class RefusedError(Exception):
    """The service said no: nothing was done."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.reason = reason

    @property
    def throttled(self) -> bool:
        """Whether it may be asked again."""
        return self.status == HTTP_TOO_MANY or self.code.startswith("Throttling")


class UnansweredError(Exception):
    """No clear answer came: what was asked may have been done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DlcClient:
    """The calls that launching needs. All but `create` only read, or may be done twice."""

    client: Any
    pause: Callable[[float], None] = time.sleep

    def create(self, request: dict[str, Any]) -> str:
        """The id of a new job. Raises RefusedError, UnansweredError: never asked twice here."""
        from alibabacloud_pai_dlc20201203.models import CreateJobRequest

        wish = CreateJobRequest().from_map(request)
        answer = _ask(lambda: self.client.create_job_with_options(wish, {}, _runtime()))
        return str(answer.body.job_id)

    def jobs_named(self, name: str, workspace_id: str) -> list[dict[str, Any]]:
        """Jobs of exactly this name, of the last seven days, the oldest first."""
        from alibabacloud_pai_dlc20201203.models import ListJobsRequest

        wish = ListJobsRequest(
            display_name=name, workspace_id=workspace_id, sort_by="GmtCreateTime", order="asc"
        )
        answer = self._read(lambda: self.client.list_jobs_with_options(wish, {}, _runtime()))
        jobs = [job.to_map() for job in answer.body.jobs or []]
        return [
            job for job in jobs if job.get("DisplayName") == name
        ]  # the service looks for parts

    def job(self, job_id: str) -> dict[str, Any]:
        """A job with its pods."""
        from alibabacloud_pai_dlc20201203.models import GetJobRequest

        wish = GetJobRequest(need_detail=True)
        answer = self._read(lambda: self.client.get_job_with_options(job_id, wish, {}, _runtime()))
        found: dict[str, Any] = answer.body.to_map()
        return found

    def events(self, job_id: str) -> list[str]:
        """What the service says of a job, the newest last."""
        from alibabacloud_pai_dlc20201203.models import GetJobEventsRequest

        wish = GetJobEventsRequest(max_events_num=20)
        answer = self._read(
            lambda: self.client.get_job_events_with_options(job_id, wish, {}, _runtime())
        )
        return list(answer.body.events or [])

    def pod_logs(self, job_id: str, pod_id: str, lines: int) -> list[str]:
        """The last lines of a pod."""
        from alibabacloud_pai_dlc20201203.models import GetPodLogsRequest

        wish = GetPodLogsRequest(max_lines=lines)
        answer = self._read(
            lambda: self.client.get_pod_logs_with_options(job_id, pod_id, wish, {}, _runtime())
        )
        return list(answer.body.logs or [])

    def stop(self, job_id: str) -> None:
        """Ends a job; one that has ended already stays as it is."""
        self._read(lambda: self.client.stop_job_with_options(job_id, {}, _runtime()))

    def gpu_specs(self, page: int) -> list[dict[str, Any]]:
        """Instance types with GPUs, a hundred a page."""
        from alibabacloud_pai_dlc20201203.models import ListEcsSpecsRequest

        wish = ListEcsSpecsRequest(accelerator_type="GPU", page_number=page, page_size=100)
        answer = self._read(lambda: self.client.list_ecs_specs_with_options(wish, {}, _runtime()))
        return [spec.to_map() for spec in answer.body.ecs_specs or []]

    def waiting(self, workspace_id: str, resource_id: str) -> int:
        """Jobs that wait for a quota, or for the public resources of a workspace."""
        from alibabacloud_pai_dlc20201203.models import ListJobsRequest

        wish = ListJobsRequest(
            workspace_id=workspace_id, resource_id=resource_id or None, status="Queuing"
        )
        answer = self._read(lambda: self.client.list_jobs_with_options(wish, {}, _runtime()))
        return int(answer.body.total_count or 0)

    def _read(self, call: Callable[[], Answer]) -> Answer:
        """What a call gives that may be repeated.

        Raises UsageError: dlc.refused, job.unknown; EnvironmentLacksError: dlc.unanswered.
        """
        reason = ""
        for seconds in (*PAUSES, None):
            try:
                return _ask(call)
            except RefusedError as refused:
                if not refused.throttled:
                    raise refusal(refused) from None
                reason = refused.reason
            except UnansweredError as unanswered:
                reason = str(unanswered)
            if seconds is not None:
                self.pause(seconds)
        raise EnvironmentLacksError("dlc.unanswered", reason=reason)


def refusal(refused: RefusedError) -> UsageError:
    """What the service refused, for a user."""
    if refused.status == HTTP_NOT_FOUND:
        return UnknownJobError("job.unknown", code=refused.code, reason=refused.reason)
    return UsageError("dlc.refused", code=refused.code, reason=refused.reason)


def connect(dlc: Dlc) -> DlcClient:
    """A client for a site.

    Raises EnvironmentLacksError: dlc.no_sdk, dlc.no_region, dlc.no_credentials.
    """
    try:
        from alibabacloud_pai_dlc20201203.client import Client
        from alibabacloud_tea_openapi.models import Config
    except ImportError:
        raise EnvironmentLacksError("dlc.no_sdk") from None
    region = dlc.region or os.environ.get("ALIBABA_CLOUD_REGION_ID", "")
    if not region:
        raise EnvironmentLacksError("dlc.no_region")
    scheme, separator, endpoint = dlc.endpoint.rpartition("://")
    chain, _ = _credentials()
    config = Config(credential=chain, region_id=region)
    if separator or endpoint:
        config.endpoint, config.protocol = endpoint, scheme or "https"
    return DlcClient(client=Client(config))


def _credentials() -> tuple[Any, Any]:
    """The SDK's chain, and what it gives. It prints nothing of what its providers stumble over.

    Raises EnvironmentLacksError: dlc.no_sdk, dlc.no_credentials.
    """
    try:
        from alibabacloud_credentials.client import Client
    except ImportError:
        raise EnvironmentLacksError("dlc.no_sdk") from None
    logging.getLogger("credentials").disabled = True
    chain = Client()
    try:
        return chain, chain.get_credential()
    except Exception as error:  # the chain raises whatever its last provider does
        raise EnvironmentLacksError("dlc.no_credentials", reason=_reason(error)) from None


def credentials_provider() -> str:
    """Which part of the chain gives credentials, never what it gives.

    Raises EnvironmentLacksError: dlc.no_sdk, dlc.no_credentials.
    """
    _, credential = _credentials()
    return str(credential.provider_name)


def _runtime() -> Any:
    """One request, no repetition of the SDK's own."""
    from darabonba.runtime import RuntimeOptions

    return RuntimeOptions(
        autoretry=False, connect_timeout=CONNECT_MILLISECONDS, read_timeout=READ_MILLISECONDS
    )


def _ask(call: Callable[[], Answer]) -> Answer:
    """One request. Raises RefusedError for an answer of 4xx, UnansweredError for anything else."""
    try:
        return call()
    except Exception as error:  # besides its own, the SDK lets those of its HTTP client through
        status = getattr(error, "status_code", None) or getattr(error, "statusCode", None)
        code = str(getattr(error, "code", "") or type(error).__name__)
        if status is not None and 400 <= int(status) < 500:
            raise RefusedError(int(status), comment(code), _reason(error)) from None
        raise UnansweredError(f"{comment(code)}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return comment(str(getattr(error, "message", None) or error))[:LONGEST_REASON]
