"""The software that runs a plan, as data: `data/stacks/*.yaml`, or a file of the user's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from planner.errors import UsageError
from planner.releases import minor_of, releases, version_of
from planner.yaml_files import (
    Sourced,
    StrictModel,
    known_names,
    load_yaml_model,
    named_file,
    suggestion,
)

STACKS_FOLDER = Path(__file__).parent / "data" / "stacks"
DEFAULT_STACK = "ms-swift-4.6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Versions and switches: they decide terms of memory and time, legal flags and the dialect.

    A version is what the package reports; empty: the package is not installed.
    """

    name: str
    description: str
    ms_swift: str
    mcore_bridge: str
    megatron_core: str
    transformer_engine: str
    torch: str
    flash_attention: str
    apex: bool  # without it gradient_accumulation_fusion is refused
    attention_backend: str  # value of --attention_backend
    allocator_setting: str  # value of PYTORCH_CUDA_ALLOC_CONF
    dispatchers: tuple[str, ...]  # values of --moe_token_dispatcher_type that it can really run
    dialect: str  # which names the arguments have: a release of planner.releases
    sources: Mapping[str, str] = field(hash=False)  # where each value comes from, by field
    assumed: tuple[str, ...]  # fields whose value nobody states for this stack

    @property
    def megatron_core_version(self) -> tuple[int, int, int]:
        """Major, minor and patch of megatron-core."""
        major, minor, patch = self.megatron_core.split(".")
        return int(major), int(minor), int(patch)


_NUMBERS = r"\d{1,4}(\.\d{1,4}){1,3}"
VERSION_PATTERN = rf"{_NUMBERS}((a|b|rc|\.?dev|\.?post)\d{{1,4}})*(\+[a-z0-9.]+)?"
_Version = Annotated[str, Field(pattern=rf"^({VERSION_PATTERN})?$")]
_SwiftVersion = Annotated[str, Field(pattern=rf"^{VERSION_PATTERN}$")]
_MegatronVersion = Annotated[str, Field(pattern=r"^\d{1,4}\.\d{1,4}\.\d{1,4}$")]
_Dispatchers = Annotated[list[Literal["alltoall", "flex"]], Field(min_length=1)]


class _StackFile(StrictModel):
    """A file. With `based_on` what it leaves out is as in the stack of that name."""

    description: str
    based_on: str | None = None
    ms_swift: Sourced[_SwiftVersion] | None = None
    mcore_bridge: Sourced[_Version] | None = None
    megatron_core: Sourced[_MegatronVersion] | None = None
    transformer_engine: Sourced[_Version] | None = None
    torch: Sourced[_Version] | None = None
    flash_attention: Sourced[_Version] | None = None
    apex: Sourced[bool] | None = None
    attention_backend: Sourced[Literal["flash", "fused", "unfused", "auto"]] | None = None
    allocator_setting: Sourced[str] | None = None
    dispatchers: Sourced[_Dispatchers] | None = None


FIELDS = tuple(name for name in _StackFile.model_fields if name not in ("description", "based_on"))


def known_stacks() -> list[str]:
    """The names of the stacks that come with the planner."""
    return known_names(STACKS_FOLDER)


def load_stack(name_or_path: str = DEFAULT_STACK) -> Stack:
    """A stack by its name, or from the YAML file at a path.

    A name may be followed by another megatron-core: ms-swift-4.6+megatron-core-0.19.

    Raises UsageError: stack.*, and those of `planner.yaml_files.load_yaml_model`.
    """
    path = named_file(name_or_path, STACKS_FOLDER)
    if path is not None:
        return _from_file(path)
    name, plus, other = name_or_path.partition("+")
    base = named_file(name, STACKS_FOLDER)
    if base is None or not plus:
        raise _unknown(name_or_path)
    return _with_megatron_core(_from_file(base), other)


def _unknown(name: str) -> UsageError:
    return UsageError("stack.unknown", name=name, suggestion=suggestion(name, known_stacks()))


def _from_file(path: Path) -> Stack:
    file = load_yaml_model(path, _StackFile)
    values = _values(path, file)
    dialect, unknown_release = _dialect(path, values["ms_swift"].value)
    sources = {name: item.source for name, item in values.items()}
    assumed = [name for name, item in values.items() if item.assumed]
    if unknown_release:
        sources["dialect"] = unknown_release
        assumed.append("dialect")
    found = {name: item.value for name, item in values.items()}
    found["dispatchers"] = tuple(found["dispatchers"])
    return Stack(
        name=path.stem,
        description=file.description,
        dialect=dialect,
        sources=sources,
        assumed=tuple(assumed),
        **found,
    )


def _values(path: Path, file: _StackFile) -> dict[str, Sourced[Any]]:
    """Every value of a file by its field, those of the stack that it is based on too.

    Raises UsageError: stack.unknown, file.missing_key.
    """
    values: dict[str, Sourced[Any]] = {}
    if file.based_on is not None:
        base = named_file(file.based_on, STACKS_FOLDER)
        if base is None or base.parent != STACKS_FOLDER:
            raise _unknown(file.based_on)
        values |= _values(base, load_yaml_model(base, _StackFile))
    values |= {name: item for name in FIELDS if (item := getattr(file, name)) is not None}
    missing = [name for name in FIELDS if name not in values]
    if missing:
        raise UsageError("file.missing_key", path=path, key=missing[0])
    return {name: values[name] for name in FIELDS}


def _dialect(path: Path, ms_swift: str) -> tuple[str, str]:
    """The release whose arguments a version has, and why it is a guess (empty: it is none).

    Raises UsageError: stack.too_old.
    """
    known = list(releases().ms_swift)
    minor = minor_of(ms_swift)
    if minor in known:
        return minor, ""
    older = [release for release in known if version_of(release) <= version_of(minor)]
    if not older:
        raise UsageError("stack.too_old", path=path, version=ms_swift, oldest=known[0])
    return older[-1], f"the arguments of ms-swift {ms_swift} are not known"


def _with_megatron_core(stack: Stack, other: str) -> Stack:
    """The stack with the megatron-core of "megatron-core-0.19", its last patch where none is given.

    Raises UsageError: stack.unknown.
    """
    name = f"{stack.name}+{other.casefold()}"
    found = re.fullmatch(r"megatron-core-(\d{1,4}\.\d{1,4}(\.\d{1,4})?)", other.casefold())
    version = found[1] if found else ""
    version = releases().megatron_core.get(version, version)
    if version.count(".") != 2:
        minors = [f"{stack.name}+megatron-core-{minor}" for minor in releases().megatron_core]
        raise UsageError("stack.unknown", name=name, suggestion=suggestion(name, minors))
    return replace(
        stack,
        name=name,
        megatron_core=version,
        sources={**stack.sources, "megatron_core": "--stack"},
        assumed=tuple(field for field in stack.assumed if field != "megatron_core"),
    )
