"""What becomes of every argument of `megatron sft`: `data/settings.yaml`, and values read by it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from math import isfinite
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from planner.errors import UsageError
from planner.yaml_files import StrictModel, load_yaml_model, shortened, suggestion

SETTINGS_FILE = Path(__file__).parent / "data" / "settings.yaml"

# Longer ones are not arguments but slips of the hand.
LONGEST_NAME = 100
LONGEST_VALUE = 4000

SettingValue = bool | int | float | str | list[str]

_Number = int | float
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Kind(StrEnum):
    """What becomes of an argument."""

    PLANNED = "planned"
    SETTING = "setting"
    RECIPE = "recipe"
    SITE = "site"
    FREE = "free"
    REFUSED = "refused"


SETTABLE = (Kind.SETTING, Kind.RECIPE, Kind.FREE)


class Spec(StrictModel):
    """Which values a flag can have. See the head of the file."""

    type: Literal["bool", "int", "float", "str", "list"]
    choices: list[str | bool] = Field(default_factory=list)
    refused: Mapping[str, str] = Field(default_factory=dict)
    above: _Number | None = None
    below: _Number | None = None
    least: _Number | None = None
    most: _Number | None = None
    because: str = ""
    needs: str | None = None


class _Group(StrictModel):
    kind: Annotated[Kind, Field(alias="class", strict=False)]
    why: Annotated[str, Field(min_length=1)]
    instead: str = ""
    names: list[_Name] = Field(default_factory=list)
    flags: dict[_Name, Spec] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_or_flags(self) -> "_Group":
        if bool(self.names) == bool(self.flags) or bool(self.flags) != (self.kind in SETTABLE):
            raise ValueError("give flags to what can be set, and names to what cannot")
        return self


class _SettingsFile(StrictModel):
    groups: list[_Group]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """An argument: what becomes of it and why; `spec` of those that can be set."""

    name: str
    kind: Kind
    why: str
    instead: str
    spec: Spec | None = field(hash=False)


@lru_cache
def setting_table() -> dict[str, Flag]:
    """Every argument of `megatron sft`, by name, in the order of the file."""
    return {flag.name: flag for flag in _flags(load_yaml_model(SETTINGS_FILE, _SettingsFile))}


def _flags(file: _SettingsFile) -> Iterator[Flag]:
    for group in file.groups:
        specs: dict[str, Spec | None] = {**dict.fromkeys(group.names), **group.flags}
        for name, spec in specs.items():
            yield Flag(name=name, kind=group.kind, why=group.why, instead=group.instead, spec=spec)


def settable() -> list[str]:
    """Names that `--set` takes."""
    return [name for name, flag in setting_table().items() if flag.kind in SETTABLE]


def _unknown(name: str) -> UsageError:
    """A name that 4.6 does not have: what became of it, or the nearest."""
    from planner.old_flags import explain_setting  # which reads this table itself

    text = explain_setting(name) or _nearest(name)
    return UsageError("setting.unknown", name=shortened(name), suggestion=text)


def read_setting(text: str) -> tuple[Flag, SettingValue]:
    """The flag and the value of NAME=VALUE.

    Raises UsageError: setting.form, setting.unknown, setting.planned, setting.site,
    setting.refused, setting.value, setting.refused_value.
    """
    name, equals, value = text.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if not equals or not name:
        raise UsageError("setting.form", text=shortened(text))
    flag = setting_table().get(name)
    if flag is None:
        raise _unknown(name)
    if flag.spec is None:
        raise UsageError(f"setting.{flag.kind}", name=name, why=flag.why, instead=flag.instead)
    return flag, _checked(name, flag.spec, value.strip())


def _nearest(name: str) -> str:
    hint = suggestion(name[:LONGEST_NAME], setting_table())
    return "docs/settings.md lists them" if hint.startswith("known:") else hint


def _checked(name: str, spec: Spec, text: str) -> SettingValue:
    """The value, of the type and within the bounds of its flag."""
    choices = [word_of(choice) for choice in spec.choices]
    why_not = spec.refused.get(text)
    if why_not is not None:
        known = ", ".join(choices) or "another value"
        raise UsageError("setting.refused_value", name=name, value=text, why=why_not, known=known)
    value = _converted(spec.type, text)
    if value is None:
        raise _bad_value(name, text, _TYPES[spec.type])
    items = value if isinstance(value, list) else [value]
    if spec.choices and any(item not in spec.choices for item in items):
        raise UsageError(
            "setting.choice",
            name=name,
            value=shortened(text),
            choices=", ".join(choices),
            suggestion=suggestion(text[:LONGEST_NAME], choices),
        )
    words = _out_of_bounds(spec, value)
    if words:
        raise _bad_value(name, text, words)
    return value


def _bad_value(name: str, text: str, expected: str) -> UsageError:
    return UsageError("setting.value", name=name, value=shortened(text), expected=expected)


def word_of(choice: str | bool) -> str:
    """A choice as it is written behind `NAME=`."""
    return str(choice).lower() if isinstance(choice, bool) else choice


def example_of(name: str) -> str:
    """A value that a flag can have, to show the form."""
    spec = setting_table()[name].spec
    if spec is None or spec.type != "bool":
        return word_of(spec.choices[-1]) if spec and spec.choices else "VALUE"
    return "true"


_TYPES = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text on one line without a - in front",
    "list": "names with commas between them, without a - in front",
}


def _converted(type_: str, text: str) -> SettingValue | None:
    """A text as a value of a type; None where it is none."""
    if not text or len(text) > LONGEST_VALUE or not text.isprintable():
        return None
    if type_ == "bool":
        return {"true": True, "false": False}.get(text.lower())
    if type_ == "list":
        items = [item.strip() for item in text.split(",")]
        return items if all(items) and not any(item.startswith("-") for item in items) else None
    if type_ == "str":
        return None if text.startswith("-") else text  # which the parser takes for an option
    try:
        return int(text) if type_ == "int" else _finite(float(text))
    except ValueError:
        return None


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None


def _out_of_bounds(spec: Spec, value: SettingValue) -> str:
    """The bounds of a number that leaves them, in words; else empty."""
    if isinstance(value, bool | str | list):
        return ""
    given = [
        (bound, words, holds)
        for bound, words, holds in (
            (spec.least, "at least", ge),
            (spec.above, "above", gt),
            (spec.most, "at most", le),
            (spec.below, "below", lt),
        )
        if bound is not None
    ]
    if all(holds(value, bound) for bound, _, holds in given):
        return ""
    bounds = " and ".join(f"{words} {bound}" for bound, words, _ in given)
    return f"{bounds} ({spec.because})" if spec.because else bounds
