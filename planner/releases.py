"""What releases of the stack permit of each other: `data/releases.yaml`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from planner.yaml_files import StrictModel, load_yaml_model

RELEASES_FILE = Path(__file__).parent / "data" / "releases.yaml"

Version = tuple[int, ...]

_Number = Annotated[str, Field(pattern=r"^\d{1,4}(\.\d{1,4}){1,3}$")]


def version_of(text: str) -> Version:
    """The numbers that a version begins with: (0, 18, 1) of "0.18.1rc0+cu130", () of "main"."""
    found = re.match(r"v?(\d{1,9}(?:\.\d{1,9})*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def minor_of(text: str) -> str:
    """Major and minor of a version: "4.6" of "4.6.0"."""
    return ".".join(str(part) for part in version_of(text)[:2])


class Range(StrictModel):
    """The versions that something permits, closed below and open above."""

    at_least: Annotated[_Number, Field(alias="from")]
    before: _Number | None = None
    source: str

    def permits(self, version: str) -> bool:
        """Whether a version is inside, judged by its numbers alone."""
        numbers = version_of(version)
        below = self.before is None or numbers < version_of(self.before)
        return version_of(self.at_least) <= numbers and below

    def __str__(self) -> str:
        return f">={self.at_least}" + (f",<{self.before}" if self.before else "")


class SwiftRelease(StrictModel):
    """A minor release of ms-swift. `arguments_file` says how `megatron sft` reads one: "first" is
    FILE.yaml as the first argument, where flags after it win."""

    newest: _Number  # the patch whose wheel was read
    arguments_file: Literal["first", "none"]
    megatron_core: Range
    mcore_bridge: Range | None = None  # None: the bridge is inside ms-swift
    others: dict[str, Range]  # packages that no stack names but every run imports


class Releases(StrictModel):
    """All that are known, by major and minor, oldest first."""

    ms_swift: dict[str, SwiftRelease]
    mcore_bridge: dict[str, Range]  # of megatron-core
    megatron_core: dict[str, _Number]  # the last patch


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfRange:
    """A version that something does not permit."""

    package: str
    version: str
    permitted: Range


@cache
def releases() -> Releases:
    """The table of releases."""
    return load_yaml_model(RELEASES_FILE, Releases)


def out_of_range(ms_swift: str, mcore_bridge: str, megatron_core: str) -> Iterator[OutOfRange]:
    """The versions that do not stand side by side; empty ones are not installed.

    What mcore-bridge permits of megatron-core is told before what ms-swift does; releases that are
    not known permit everything.
    """
    swift = releases().ms_swift.get(minor_of(ms_swift))
    of_bridge = releases().mcore_bridge.get(minor_of(mcore_bridge))
    wanted = [
        ("mcore-bridge", mcore_bridge, swift.mcore_bridge if swift else None),
        ("megatron-core", megatron_core, of_bridge),
        ("megatron-core", megatron_core, swift.megatron_core if swift else None),
    ]
    told = set()
    for package, version, permitted in wanted:
        if version and permitted and package not in told and not permitted.permits(version):
            told.add(package)
            yield OutOfRange(package=package, version=version, permitted=permitted)


def others_out_of_range(ms_swift: str, versions: Mapping[str, str]) -> Iterator[OutOfRange]:
    """Of packages beside the stack, by name, those that a release of ms-swift does not permit."""
    release = releases().ms_swift.get(minor_of(ms_swift))
    for package, permitted in (release.others if release else {}).items():
        version = versions.get(package, "")
        if version_of(version) and not permitted.permits(version):
            yield OutOfRange(package=package, version=version, permitted=permitted)
