"""How ms-swift's flags changed from 3.12 to 4.6: `data/new_flags.yaml` and `data/old_flags.yaml`.

The canonical names are those of 4.6. `planner.dialects` reads the tables towards older releases,
`planner.old_flags` towards the newest.
"""

from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from planner.releases import version_of
from planner.yaml_files import StrictModel, load_yaml_model

DATA_FOLDER = Path(__file__).parent / "data"
MEGATRON: Final = "megatron"
SWIFT_EXPORT: Final = "swift export"

Command = Literal["megatron", "swift export"]


class Renamed(StrictModel):
    """A flag that has another name, and perhaps another sense or value."""

    now: str
    gone: str  # the first release without it
    command: Command = MEGATRON
    inverted: bool = False
    converted: str = ""  # what the value is now

    @property
    def is_plain(self) -> bool:
        """Whether the value, or its opposite, can be taken over."""
        return not self.converted


class Removed(StrictModel):
    """Flags that 4.0 dropped without another name."""

    instead: str
    flags: list[str]


class ChangedDefault(StrictModel):
    """A default of one flag in 3.12 and in 4.6."""

    before: Any
    now: Any
    since: str


class OldFlags(StrictModel):
    """What is gone: by its name in 3.12."""

    renamed: dict[str, Renamed]
    removed: list[Removed]
    defaults: dict[str, ChangedDefault]


class SpelledOut(StrictModel):
    """A flag that some releases must be told, wherever `beside` is written."""

    beside: str
    value: str
    releases: list[str]


class NewFlags(StrictModel):
    """What came: by its name in 4.6."""

    since: dict[Command, dict[str, list[str]]]  # by release
    also_in: dict[str, list[str]]
    left_out: dict[str, str]
    values: dict[Command, dict[str, dict[str, str]]]  # by flag and value
    lists: dict[str, str]
    fractions: dict[str, str]
    spelled_out: dict[str, SpelledOut]

    def first_release(self, flag: str, command: Command) -> str | None:
        """The release that a flag came with; None: 3.12 has it already."""
        return _first_releases(command).get(flag)

    def has(self, flag: str, release: str, command: Command) -> bool:
        """Whether a release has a flag of 4.6 under its name of 4.6."""
        since = self.first_release(flag, command)
        return is_reached(release, since) or release in self.also_in.get(flag, [])


def is_reached(release: str, since: str | None) -> bool:
    """Whether a release is `since` or later; always where that is None."""
    return since is None or version_of(release) >= version_of(since)


@cache
def old_flags() -> OldFlags:
    """The table of what is gone."""
    return load_yaml_model(DATA_FOLDER / "old_flags.yaml", OldFlags)


@cache
def new_flags() -> NewFlags:
    """The table of what came."""
    return load_yaml_model(DATA_FOLDER / "new_flags.yaml", NewFlags)


@cache
def _first_releases(command: Command) -> dict[str, str]:
    by_release = new_flags().since[command]
    return {flag: release for release, flags in by_release.items() for flag in flags}


@cache
def old_name(flag: str, release: str, command: Command) -> tuple[str, Renamed] | None:
    """What a release before a flag's first calls it, where the value can be taken over."""
    for name, renamed in old_flags().renamed.items():
        exists = not is_reached(release, renamed.gone)
        if renamed.now == flag and renamed.command == command and renamed.is_plain and exists:
            return name, renamed
    return None
