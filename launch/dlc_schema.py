"""The form of a PAI-DLC CreateJob request, as far as this project writes and checks it.

The names are those of the wire (API version 2020-12-03). PAI's own SDK accepts what lacks a
required name and drops what it does not know: a slip would only be seen when nodes are taken.
Sources: the struct pages of PAI-DLC's API, and models/_create_job_request.py, _job_spec.py and
_job_settings.py of alibabacloud-pai-dlc20201203 1.11.6.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from planner.errors import UsageError
from planner.yaml_files import StrictModel, checked

MAX_JOB_BYTES = 65_536  # of the whole request, PAI-DLC's documentation of CreateJob
MAX_NAME_LENGTH = 256  # the same, DisplayName

_Given = Annotated[str, Field(min_length=1)]
_Path = Annotated[str, Field(pattern=r"^/[^\x00]*$")]
_Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(\.[0-9]+)?[A-Za-z]*$")]


class _ResourceConfig(StrictModel):
    CPU: _Quantity | None = None
    GPU: Annotated[str, Field(pattern=r"^[1-9][0-9]*$")]
    Memory: _Quantity | None = None
    SharedMemory: _Quantity | None = None
    GPUType: _Given | None = None


class _JobSpec(StrictModel):
    Type: Literal["Worker"]
    PodCount: Annotated[int, Field(ge=1)]
    Image: _Given
    EcsSpec: _Given | None = None
    ResourceConfig: _ResourceConfig | None = None

    @model_validator(mode="after")
    def _has_one_size(self) -> "_JobSpec":
        if (self.EcsSpec is None) == (self.ResourceConfig is None):
            raise ValueError("give either EcsSpec or ResourceConfig")
        return self


class _DataSource(StrictModel):
    DataSourceId: _Given | None = None
    Uri: _Given | None = None
    MountPath: _Path
    MountAccess: Literal["RO", "RW"] | None = None
    Options: _Given | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> "_DataSource":
        if (self.DataSourceId is None) == (self.Uri is None):
            raise ValueError("give either DataSourceId or Uri")
        return self


class _CodeSource(StrictModel):
    CodeSourceId: _Given
    Branch: _Given | None = None
    Commit: _Given | None = None
    MountPath: _Path | None = None


class _UserVpc(StrictModel):
    VpcId: _Given
    SwitchId: _Given
    SecurityGroupId: _Given
    ExtendedCIDRs: list[_Given] | None = None
    DefaultRoute: Literal["eth0", "eth1"] | None = None


class _Settings(StrictModel):
    EnableRDMA: bool
    EnableSanityCheck: bool | None = None
    SanityCheckArgs: _Given | None = None
    EnableErrorMonitoringInAIMaster: bool | None = None
    ErrorMonitoringArgs: _Given | None = None
    Tags: dict[_Given, str] | None = None


class _Job(StrictModel):
    DisplayName: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,256}$")]
    JobType: Literal["PyTorchJob"]
    WorkspaceId: _Given
    ResourceId: _Given | None = None
    UserCommand: _Given
    Envs: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] | None = None
    Priority: Annotated[int, Field(ge=1, le=9)] | None = None
    JobMaxRunningTimeMinutes: Annotated[int, Field(ge=1)] | None = None
    JobSpecs: Annotated[list[_JobSpec], Field(min_length=1, max_length=1)]
    DataSources: Annotated[list[_DataSource], Field(min_length=1)] | None = None
    CodeSource: _CodeSource | None = None
    UserVpc: _UserVpc | None = None
    Settings: _Settings


def check_job(origin: Path, job: object) -> dict[str, Any]:
    """The request, if PAI-DLC can accept its form; `origin` names it in messages.

    Raises UsageError: file.unknown_key, file.missing_key, file.bad_value, dlc.too_large.
    """
    checked(origin, job, _Job)
    assert isinstance(job, dict)
    check_size(json.dumps(job))
    return job


def check_size(text: str) -> None:
    """Raises UsageError: dlc.too_large."""
    if len(text) > MAX_JOB_BYTES:
        raise UsageError("dlc.too_large", size=len(text), limit=MAX_JOB_BYTES)
