"""Where a run happens: paths, image, mounts, hosts, PAI-DLC, from flags and a YAML file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from planner.yaml_files import StrictModel, checked, load_yaml_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """Storage that a PAI-DLC job mounts: a registered data source or a URI (oss://, nas://, cpfs://)."""

    mount_path: str
    data_source_id: str = ""
    uri: str = ""
    options: str = ""  # in the storage's own words
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Vpc:
    """The network of a PAI-DLC job, which NAS and CPFS need."""

    vpc_id: str
    switch_id: str
    security_group_id: str
    extended_cidrs: tuple[str, ...] = ()
    default_route: str = ""  # eth0: to the public network; eth1: to the VPC


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSource:
    """A code repository that is registered with PAI."""

    code_source_id: str
    branch: str = ""
    commit: str = ""
    mount_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dlc:
    """What PAI-DLC must be told. Empty: not given, and then not in the job either."""

    region: str = ""  # for example cn-hangzhou
    endpoint: str = ""  # instead of the region's own
    workspace_id: str = ""
    resource_id: str = ""  # of a quota; without one the job goes to the public pool
    ecs_spec: str = ""  # the instance type of a node; else cpu, memory and shared_memory
    cpu: str = ""
    memory: str = ""  # with its unit, for example "1600Gi"
    shared_memory: str = ""
    gpu_type: str = ""
    priority: int | None = None  # 1 to 9
    max_running_minutes: int | None = None
    rdma: bool | None = None  # None: where there are several nodes
    sanity_check: bool = False  # PAI looks at the nodes before and after a fault
    max_restarts: int = 0  # by AIMaster, PAI's fault tolerance; 0: off
    hang_seconds: int | None = None  # without a log line until AIMaster takes the job for hung
    vpc: Vpc | None = None
    code_source: CodeSource | None = None
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Plain machines that ssh reaches without a password, one a node; the first is the master.

    `localhost` is this machine, without ssh.
    """

    addresses: tuple[str, ...] = ()  # as ssh takes them: names, addresses, user@name
    ssh_options: tuple[str, ...] = ()  # of `ssh -o`, for example "Port=2222"
    master_addr: str = ""  # as the other nodes reach it; empty: the first address
    master_port: int = 29500
    # a file that bash reads first there: ssh starts shells that know no conda and no modules
    environment_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The user's cluster, as far as scripts depend on it. Paths are those that the nodes see.

    `workspace` holds converted weights, checkpoints and caches, on storage that all nodes share;
    empty: the run folder itself. `run_folder` is the path of the run folder on the nodes; empty:
    the path where it is written. `model_type` and `template` are ms-swift's words for a model
    that it does not recognise by its folder's name.
    """

    model_path: str = ""
    dataset: tuple[str, ...] = ()
    workspace: str = ""
    run_folder: str = ""
    model_type: str = ""
    template: str = ""
    image: str = ""
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    dlc: Dlc = Dlc()
    hosts: Hosts = Hosts()


_Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/@-]*$")]
_GivenWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/@-]+$")]
# What ssh takes for a machine; no option of its own.
_Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:@-]*$")]
_EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$")]


class _MountFile(StrictModel):
    mount_path: _AbsolutePath
    data_source_id: _Word = ""
    uri: _Text = ""
    options: _Text = ""
    read_only: bool = False

    @model_validator(mode="after")
    def _has_one_source(self) -> "_MountFile":
        if bool(self.data_source_id) == bool(self.uri):
            raise ValueError("give either data_source_id or uri")
        return self


class _VpcFile(StrictModel):
    vpc_id: _GivenWord
    switch_id: _GivenWord
    security_group_id: _GivenWord
    extended_cidrs: list[_GivenWord] = Field(default_factory=list)
    default_route: Literal["eth0", "eth1", ""] = ""


class _CodeSourceFile(StrictModel):
    code_source_id: _GivenWord
    branch: _Word = ""
    commit: _Word = ""
    mount_path: _AbsolutePath | Literal[""] = ""


class _HostsFile(StrictModel):
    addresses: list[_Address] = Field(default_factory=list)
    ssh_options: list[_Text] = Field(default_factory=list)
    master_addr: _Address | Literal[""] = ""
    master_port: Annotated[int, Field(ge=1, le=65535)] = 29500
    environment_file: _AbsolutePath | Literal[""] = ""


class _DlcFile(StrictModel):
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = ""
    endpoint: _Word = ""
    workspace_id: _Word = ""
    resource_id: _Word = ""
    ecs_spec: _Word = ""
    cpu: _Word = ""
    memory: _Word = ""
    shared_memory: _Word = ""
    gpu_type: _Word = ""
    priority: Annotated[int, Field(ge=1, le=9)] | None = None
    max_running_minutes: Annotated[int, Field(ge=1)] | None = None
    rdma: bool | None = None
    sanity_check: bool = False
    max_restarts: Annotated[int, Field(ge=0)] = 0
    hang_seconds: Annotated[int, Field(ge=60)] | None = None
    vpc: _VpcFile | None = None
    code_source: _CodeSourceFile | None = None
    tags: dict[_GivenWord, _Word] = Field(default_factory=dict)


class _SiteFile(StrictModel):
    model_path: _Text = ""
    dataset: list[_Text] = Field(default_factory=list)
    workspace: _AbsolutePath | Literal[""] = ""
    run_folder: _AbsolutePath | Literal[""] = ""
    model_type: _Word = ""
    template: _Word = ""
    image: _Word = ""
    mounts: list[_MountFile] = Field(default_factory=list)
    env: dict[_EnvName, _Text] = Field(default_factory=dict)
    dlc: _DlcFile = _DlcFile()
    hosts: _HostsFile = _HostsFile()


def load_site(path: Path) -> Site:
    """The site that a YAML file describes; every key is optional.

    Raises UsageError: those of `planner.yaml_files.load_yaml_model`.
    """
    file = load_yaml_model(path, _SiteFile)
    return TypeAdapter(Site).validate_json(file.model_dump_json())


def checked_hosts(addresses: Sequence[str]) -> tuple[str, ...]:
    """Addresses of the command line, checked as those of a file.

    Raises UsageError: file.bad_value.
    """
    file = checked(Path("--hosts"), {"addresses": list(addresses)}, _HostsFile)
    return tuple(file.addresses)


def with_absolute_paths(site: Site) -> Site:
    """The site with model and data as absolute paths where they are files or folders here.

    Scripts run in the run folder, so that another relative path would be lost. What is not here is
    left as it is: a hub id, or a path of the nodes. `#500` after a data set is a number of samples.
    """
    return replace(
        site,
        model_path=_absolute_if_here(site.model_path),
        dataset=tuple(map(_absolute_if_here, site.dataset)),
    )


def _absolute_if_here(path: str) -> str:
    name, hash_sign, count = path.partition("#")
    if not name or "\0" in path:
        return path
    if os.path.exists(path):
        return os.path.abspath(path)
    return os.path.abspath(name) + hash_sign + count if os.path.exists(name) else path
