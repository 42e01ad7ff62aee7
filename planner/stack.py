"""The software that runs a plan, as data: `data/stacks/*.yaml`, or a file of the user's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from planner.errors import UsageError
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
    dialect: str  # which names the arguments have: "4.6" or "3.12"
    sources: Mapping[str, str] = field(hash=False)  # where each value comes from, by field
    assumed: tuple[str, ...]  # fields whose value nobody states for this stack

    @property
    def megatron_core_version(self) -> tuple[int, int, int]:
        """Major, minor and patch of megatron-core."""
        major, minor, patch = self.megatron_core.split(".")
        return int(major), int(minor), int(patch)


_Version = Annotated[str, Field(pattern=r"^(\d{1,4}(\.\d{1,4}){1,3}(\+[a-z0-9.]+)?)?$")]
_MegatronVersion = Annotated[str, Field(pattern=r"^\d{1,4}\.\d{1,4}\.\d{1,4}$")]
_Dispatchers = Annotated[list[Literal["alltoall", "flex"]], Field(min_length=1)]


class _StackFile(StrictModel):
    description: str
    dialect: Literal["4.6", "3.12"]
    ms_swift: Sourced[_Version]
    mcore_bridge: Sourced[_Version]
    megatron_core: Sourced[_MegatronVersion]
    transformer_engine: Sourced[_Version]
    torch: Sourced[_Version]
    flash_attention: Sourced[_Version]
    apex: Sourced[bool]
    attention_backend: Sourced[Literal["flash", "fused", "unfused", "auto"]]
    allocator_setting: Sourced[str]
    dispatchers: Sourced[_Dispatchers]


def known_stacks() -> list[str]:
    """The names of the stacks that come with the planner."""
    return known_names(STACKS_FOLDER)


def load_stack(name_or_path: str = DEFAULT_STACK) -> Stack:
    """A stack by its name, or from the YAML file at a path.

    Raises UsageError: stack.unknown, and those of `planner.yaml_files.load_yaml_model`.
    """
    path = named_file(name_or_path, STACKS_FOLDER)
    if path is None:
        hint = suggestion(name_or_path, known_stacks())
        raise UsageError("stack.unknown", name=name_or_path, suggestion=hint)
    file = load_yaml_model(path, _StackFile)
    sourced = {key: item for key, item in file if isinstance(item, Sourced)}
    return Stack(
        name=path.stem,
        description=file.description,
        ms_swift=file.ms_swift.value,
        mcore_bridge=file.mcore_bridge.value,
        megatron_core=file.megatron_core.value,
        transformer_engine=file.transformer_engine.value,
        torch=file.torch.value,
        flash_attention=file.flash_attention.value,
        apex=file.apex.value,
        attention_backend=file.attention_backend.value,
        allocator_setting=file.allocator_setting.value,
        dispatchers=tuple(file.dispatchers.value),
        dialect=file.dialect,
        sources={key: item.source for key, item in sourced.items()},
        assumed=tuple(key for key, item in sourced.items() if item.assumed),
    )
