"""What `pip freeze`, `pip list` and `conda list` say, as packages."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from planner.errors import UsageError

_NAME = r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})"
_VERSION = r"(\d[A-Za-z0-9.+!_-]{0,63})"
# name==1.2, name[extra]==1.2 ; marker
_PINNED = re.compile(rf"{_NAME}(?:\[[^\]]*\])?\s*===?\s*{_VERSION}")
# name @ file:///wheels/name-1.2-py3-none-any.whl, name @ git+https://host/name@v1.2
_DIRECT = re.compile(rf"{_NAME}(?:\[[^\]]*\])?\s*@\s*(\S+)")
# -e git+https://host/name@commit#egg=name
_EDITABLE = re.compile(rf"-e\s+(\S*[#&]egg={_NAME}.*)")
# Editable install with no version control (name==1.2), followed by -e /folder
_EDITABLE_COMMENT = re.compile(rf"#\s*Editable\b.*\({_NAME}===?{_VERSION}\)")
# name  1.2  /folder: a row of pip list or conda list
_ROW = re.compile(rf"{_NAME}\s+{_VERSION}(?:\s|$)")
_IN_A_FILE_NAME = re.compile(r"-(\d[A-Za-z0-9.+!_]*)(?:-[^/]*\.whl|\.tar\.gz|\.zip)(?:$|[#?])")
_IN_A_TAG = re.compile(r"@v?(\d+(?:\.\d+)+\w*)(?:$|#)")


@dataclass(frozen=True, slots=True)
class Package:
    """An installed distribution; an empty version: it does not say which."""

    name: str  # as package indexes write it: lower case, one hyphen for each run of - _ .
    version: str


def normalized(name: str) -> str:
    """A name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_freeze(text: str, *, origin: str) -> tuple[Package, ...]:
    """The packages of a list, in its order; lines that name none are passed over.

    Raises UsageError: freeze.empty, where no line names one.
    """
    packages = tuple(_packages(text))
    if not packages:
        raise UsageError("freeze.empty", path=origin)
    return packages


def _packages(text: str) -> Iterator[Package]:
    for line in map(str.strip, text.splitlines()):
        if found := _EDITABLE_COMMENT.match(line) or _PINNED.match(line) or _ROW.match(line):
            yield Package(normalized(found[1]), found[2])
        elif found := _DIRECT.match(line):
            yield Package(normalized(found[1]), _version_in(found[2]))
        elif found := _EDITABLE.match(line):
            yield Package(normalized(found[2]), _version_in(found[1]))


def _version_in(location: str) -> str:
    """The version that a file's name or a tag says, or none."""
    file_name = location.rsplit("/", 1)[-1]
    found = _IN_A_FILE_NAME.search(file_name) or _IN_A_TAG.search(location)
    return found[1] if found else ""
