"""Where a run happens: paths, image, mounts and PAI-DLC's names, from flags and a YAML file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from planner.yaml_files import StrictModel, load_yaml_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """Storage that a PAI-DLC job mounts: a registered data source or a URI (oss://, nas://, cpfs://)."""

    mount_path: str
    data_source_id: str = ""
    uri: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dlc:
    """What PAI-DLC must be told. Empty: not given, and then not in the job either."""

    workspace_id: str = ""
    resource_id: str = ""  # of a quota; without one the job goes to the public pool
    ecs_spec: str = ""  # the instance type of a node; else cpu, memory and shared_memory
    cpu: str = ""
    memory: str = ""  # with its unit, for example "1600Gi"
    shared_memory: str = ""


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


_Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/@-]*$")]
_EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$")]


class _MountFile(StrictModel):
    mount_path: _AbsolutePath
    data_source_id: _Word = ""
    uri: _Text = ""

    @model_validator(mode="after")
    def _has_one_source(self) -> "_MountFile":
        if bool(self.data_source_id) == bool(self.uri):
            raise ValueError("give either data_source_id or uri")
        return self


class _DlcFile(StrictModel):
    workspace_id: _Word = ""
    resource_id: _Word = ""
    ecs_spec: _Word = ""
    cpu: _Word = ""
    memory: _Word = ""
    shared_memory: _Word = ""


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


def load_site(path: Path) -> Site:
    """The site that a YAML file describes; every key is optional.

    Raises UsageError: those of `planner.yaml_files.load_yaml_model`.
    """
    file = load_yaml_model(path, _SiteFile)
    values = file.model_dump(exclude={"dataset", "mounts", "dlc"})
    return Site(
        **values,
        dataset=tuple(file.dataset),
        mounts=tuple(Mount(**mount.model_dump()) for mount in file.mounts),
        dlc=Dlc(**file.dlc.model_dump()),
    )


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
