"""From the canonical arguments to the flags of a release of ms-swift."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from planner.errors import UsageError
from planner.flag_history import (
    MEGATRON,
    SWIFT_EXPORT,
    Command,
    is_reached,
    new_flags,
    old_name,
)
from planner.releases import releases
from planner.swift_args import ArgValue
from planner.yaml_files import StrictModel, load_yaml_model, shortened

DATA_FOLDER = Path(__file__).parent / "data"
CANONICAL_RELEASE = "4.6"

Flags = dict[str, ArgValue]
"""Flags of a release, without their dashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The argument names and values of one release."""

    release: str  # "4.6"
    arguments_file: Literal["first", "none"]  # as in planner.releases


def load_dialect(release: str) -> Dialect:
    """The dialect of a release, as `Stack.dialect` names it.

    Raises UsageError: flag.unknown_release, of a run.json that somebody changed.
    """
    known = releases().ms_swift
    if release not in known:
        raise UsageError("flag.unknown_release", release=shortened(release), known=", ".join(known))
    return Dialect(release=release, arguments_file=known[release].arguments_file)


def translate(
    args: Mapping[str, ArgValue], dialect: Dialect, *, single_process: bool = False
) -> Flags:
    """The flags of a release for canonical arguments, in the same order.

    `single_process` is for `swift export`; the default is for the commands of `megatron`. What the
    release lacks is left out where `dropped` says why.

    Raises UsageError: flag.too_new, flag.value_too_new.
    """
    command: Command = SWIFT_EXPORT if single_process else MEGATRON
    flags: Flags = {}
    for canonical, value in args.items():
        said = _value(canonical, value, dialect.release, command)
        if new_flags().has(canonical, dialect.release, command):
            flags[canonical] = said
        elif old := old_name(canonical, dialect.release, command):
            name, renamed = old
            flags[name] = not said if renamed.inverted else said
        elif canonical not in new_flags().left_out:
            raise _too_new(canonical, dialect.release, command)
    return flags


def dropped(args: Mapping[str, ArgValue], dialect: Dialect) -> dict[str, str]:
    """Canonical flags of `args` that the release does not have and can do without, and why."""
    return {
        canonical: why
        for canonical, why in new_flags().left_out.items()
        if canonical in args
        and not new_flags().has(canonical, dialect.release, MEGATRON)
        and old_name(canonical, dialect.release, MEGATRON) is None
    }


def spelled_out(args: Mapping[str, ArgValue], dialect: Dialect) -> Flags:
    """Canonical flags that the release must be told too, because its defaults are not those of 4.6.

    Nothing that `args` says already.
    """
    return {
        flag: each.value
        for flag, each in new_flags().spelled_out.items()
        if flag not in args and each.beside in args and dialect.release in each.releases
    }


def _value(flag: str, value: ArgValue, release: str, command: Command) -> ArgValue:
    """The value in a form that the release reads. Raises UsageError: flag.value_too_new."""
    table = new_flags()
    if isinstance(value, list) and not is_reached(release, table.lists.get(flag)):
        if len(value) > 1:
            raise _value_too_new(flag, " ".join(value), release, table.lists[flag])
        value = value[0] if value else ""
    if isinstance(value, float) and not is_reached(release, table.fractions.get(flag)):
        if not value.is_integer():
            raise _value_too_new(flag, value, release, table.fractions[flag])
        value = int(value)
    for word in words(value):
        since = table.values[command].get(flag, {}).get(word)
        if not is_reached(release, since):
            raise _value_too_new(flag, word, release, since)
    return value


def _too_new(flag: str, release: str, command: Command) -> UsageError:
    since = new_flags().first_release(flag, command)
    return UsageError("flag.too_new", release=release, flag=flag, since=since)


def _value_too_new(flag: str, value: object, release: str, since: str | None) -> UsageError:
    return UsageError("flag.value_too_new", release=release, flag=flag, value=value, since=since)


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

    hints: dict[str, ModelHint]  # by dialect; one that is not named has the hint of 4.6
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
    return known.hints.get(dialect, known.hints[CANONICAL_RELEASE])


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
