"""From the canonical arguments to the flags of a release of ms-swift: `data/dialects/*.yaml`."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from planner.swift_args import ArgValue
from planner.yaml_files import StrictModel, load_yaml_model

DATA_FOLDER = Path(__file__).parent / "data"

Flags = dict[str, ArgValue]
"""Flags of a release, without their dashes."""


class Flag(StrictModel):
    """What a release makes of a canonical flag: another name, the opposite sense, or nothing."""

    name: str | None = None
    inverted: bool = False
    dropped: str | None = None  # why the release has none

    @model_validator(mode="after")
    def _is_named_or_dropped(self) -> "Flag":
        if (self.name is None) == (self.dropped is None):
            raise ValueError("give either a name or why it is dropped")
        return self


class Dialect(StrictModel):
    """The names of one release. Flags that are not in the tables keep their canonical name."""

    description: str
    arguments_file: Literal["first", "none"]
    flags: dict[str, Flag]  # of `megatron sft` and `megatron export`
    single_process_flags: dict[str, Flag]  # of `swift export`


@lru_cache
def load_dialect(name: str) -> Dialect:
    """The dialect "4.6" or "3.12", as `Stack.dialect` names it."""
    return load_yaml_model(DATA_FOLDER / "dialects" / f"{name}.yaml", Dialect)


def translate(
    args: Mapping[str, ArgValue], dialect: Dialect, *, single_process: bool = False
) -> Flags:
    """The flags of a release for canonical arguments, in the same order.

    `single_process` is for `swift export`; the default is for the commands of `megatron`.
    """
    table = dialect.single_process_flags if single_process else dialect.flags
    flags: Flags = {}
    for canonical, value in args.items():
        flag = table.get(canonical, Flag(name=canonical))
        if flag.name is not None:
            flags[flag.name] = not value if flag.inverted else value
    return flags


def dropped(args: Mapping[str, ArgValue], dialect: Dialect) -> dict[str, str]:
    """Canonical flags of `args` that the release does not have, and why."""
    reasons = {canonical: flag.dropped for canonical, flag in dialect.flags.items()}
    return {canonical: why for canonical in args if (why := reasons.get(canonical))}


def words(value: ArgValue) -> list[str]:
    """A value as the words that follow its flag on a command line."""
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return value if isinstance(value, list) else [str(value)]


def argv(flags: Mapping[str, ArgValue]) -> list[str]:
    """The words of a command line: `--flag value`, or `--flag value value ...` for a list."""
    return [word for flag, value in flags.items() for word in (f"--{flag}", *words(value))]


class ModelHint(StrictModel):
    """What to tell ms-swift about a model folder whose name it does not know."""

    model_type: str
    template: str


class ModelHints(StrictModel):
    """Of one model_type of config.json: the names that ms-swift knows, and hints for all others."""

    hints: dict[str, ModelHint]  # by dialect
    known_names: list[str]


class _ModelHintsFile(StrictModel):
    models: dict[str, ModelHints]  # by the model_type of config.json


def model_hint(model_type: str, model_path: str, dialect: str) -> ModelHint | None:
    """What ms-swift must be told about a model folder; None where nothing, as far as is known.

    `model_type` is the one of the folder's config.json.
    """
    known = model_hints().get(model_type)
    if known is None or model_folder_name(model_path) in known.known_names:
        return None
    return known.hints[dialect]


def model_folder_name(model_path: str) -> str:
    """The name by which ms-swift recognises a model: of its folder, or of its hub id in a cache.

    In lower case; the rule is that of 4.6.0, swift/model/model_meta.py:112-130.
    """
    path = model_path.rstrip("/")
    in_cache = re.search("/models--(?:.+?--)?(.+?)/snapshots/", path)
    name = in_cache.group(1) if in_cache else path.rsplit("/", 1)[-1]
    return name.replace("___", ".").lower()


@lru_cache
def model_hints() -> dict[str, ModelHints]:
    """All hints, by the model_type of config.json."""
    return load_yaml_model(DATA_FOLDER / "model_hints.yaml", _ModelHintsFile).models
