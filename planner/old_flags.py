"""What became of ms-swift's flags of 3.x, and what `plan` calls a flag of ms-swift."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from planner.errors import UsageError
from planner.flag_history import DATA_FOLDER, new_flags, old_flags
from planner.messages import MESSAGES
from planner.setting_table import SETTABLE, setting_table
from planner.yaml_files import StrictModel, load_yaml_model

REMOVED_SINCE = "4.0"  # when every flag without another name went


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What became of a flag of 3.x."""

    old: str
    now: str | None  # None: gone with nothing in its place
    since: str  # the first release with `now`, or without `old`
    inverted: bool = False  # `now` has the opposite sense
    converted: str = ""  # what the value of `now` is, where it is another
    instead: str = ""  # why nothing is in its place

    @property
    def message_id(self) -> str:
        """Id of its sentence in `planner.messages`."""
        if self.now is None:
            return "hint.removed"
        if self.inverted:
            return "hint.inverted"
        return "hint.converted" if self.converted else "hint.renamed"

    @property
    def text(self) -> str:
        """The sentence."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _text(self.message_id, **values)


class RefusedValues(StrictModel):
    """Values of an option that ms-swift has and `plan` has not, with the reason."""

    known: str
    values: dict[str, str]


class PlanFlags(StrictModel):
    """What `plan` calls flags of ms-swift 4.6."""

    options: dict[str, str]
    searched: dict[str, str]
    site: list[str]
    foreign: dict[str, str]
    elsewhere: dict[str, str]
    refused: dict[str, RefusedValues]


def hint(flag: str) -> Hint | None:
    """What became of a flag, with or without its dashes; None: it is not one that 4.6 lacks."""
    name = _name(flag)
    renamed = old_flags().renamed.get(name)
    if renamed is not None:
        since = new_flags().first_release(renamed.now, renamed.command) or renamed.gone
        return Hint(
            old=name,
            now=renamed.now,
            since=since,
            inverted=renamed.inverted,
            converted=renamed.converted,
        )
    for group in old_flags().removed:
        if name in group.flags:
            return Hint(old=name, now=None, since=REMOVED_SINCE, instead=group.instead)
    return None


def way(flag: str) -> str | None:
    """How a user of `plan` sets a flag of ms-swift 4.6; None: it is not known as one."""
    table = plan_flags()
    if flag in table.options:
        return _text("way.option", option=table.options[flag])
    if flag in table.searched:
        return _text("way.searched", option=table.searched[flag])
    if flag in table.site:
        return _text("way.site", flag=flag)
    setting = setting_table().get(flag)
    if setting is None:
        return None
    if setting.kind in SETTABLE:
        return _text(f"way.{setting.kind}", flag=flag)
    return _text("way.refused", flag=flag, why=setting.why)


def explain_setting(name: str) -> str | None:
    """How a user of `plan` sets what is no argument of ms-swift 4.6; None: nobody calls it so."""
    table, found = plan_flags(), hint(name)
    if found is not None:
        return f"{found.text}; with plan, {way(found.now or '') or _text('way.none')}"
    flag = table.foreign.get(name, name)
    if flag in table.elsewhere:
        return table.elsewhere[flag]
    return None if flag == name else _text("way.called", flag=flag, way=way(flag))


def explain_option(option: str, known: bool, reason: str) -> UsageError | None:
    """What a user of `plan` meant by an option that it does not have, or whose value is bad.

    None: nothing of ms-swift is called so.
    """
    name = _name(option)
    found = hint(name)
    if known:
        refused = _refused_value(option, reason)
        if refused is not None:
            return refused
        if found is None or plan_flags().options.get(found.now or "") == option:
            return None
        return UsageError("input.usage", reason=f"{reason} ({found.text})", help="plan --help")
    own = way(name if found is None else found.now or "")
    if found is None:
        return UsageError("input.swift_flag", given=option, way=own) if own else None
    return UsageError("input.old_flag", given=option, hint=found.text, way=own or _text("way.none"))


def _refused_value(option: str, reason: str) -> UsageError | None:
    """A value that ms-swift has and `plan` has not, where that is what was refused."""
    refused = plan_flags().refused.get(option)
    if refused is None:
        return None
    for value, why in refused.values.items():
        if repr(value) in reason:
            values = {"name": option, "value": value, "why": why, "known": refused.known}
            return UsageError("setting.refused_value", **values)
    return None


def explain_key(key: str, known: Collection[str]) -> str | None:
    """What an unknown key of a file was meant to be, where it is a flag of ms-swift.

    None: it is none, or one that `plan` does not have elsewhere.
    """
    found = hint(key)
    if found is None:
        table = plan_flags()
        is_option = key in table.options or key in table.searched
        return _text("way.elsewhere", flag=key, way=way(key)) if is_option else None
    if found.now in known:
        return found.text
    own = (way(found.now) if found.now else None) or _text("way.none")
    return f"{found.text}; with plan, {own}"


def _name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _text(message_id: str, **values: Any) -> str:
    return MESSAGES[message_id].text.format_map(values)


@cache
def plan_flags() -> PlanFlags:
    """The table of what `plan` calls flags."""
    return load_yaml_model(DATA_FOLDER / "plan_flags.yaml", PlanFlags)
