"""Writes text that a shell, YAML or a person reads, whatever characters the values have."""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

import yaml

from planner.swift_args import ArgValue

PLAIN_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class _Template(Template):
    """`@@name` is replaced; `$` and `%` belong to the shell."""

    delimiter = "@@"


def fill(template: Path, **values: object) -> str:
    """The text of a template with its `@@name`s replaced, each exactly once and nothing else.

    A line that holds nothing but a name goes away with an empty value.
    """
    text = template.read_text(encoding="utf-8")
    for name, value in values.items():
        if value == "":
            text = re.sub(rf"(?m)^@@{name}\n", "", text)
    return _Template(text).substitute(values)


def comment(text: str) -> str:
    """`text` as one printable line: it cannot leave a comment."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def shell_words(words: Iterable[str]) -> str:
    """Words of a command line that the shell reads back exactly."""
    return " ".join(shlex.quote(word) for word in words)


def shell_array(name: str, rows: Iterable[Sequence[str]]) -> str:
    """A bash array, a row of words a line."""
    lines = [f"  {shell_words(row)}" for row in rows]
    return "\n".join([f"{name}=(", *lines, ")"])


def yaml_value(value: ArgValue) -> str:
    """A flag's value in YAML, so that ms-swift reads back exactly its words.

    Items of a list are strings: ms-swift puts them on a command line as they are.
    """
    if isinstance(value, list):
        return "[" + ", ".join(_yaml_string(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _yaml_string(value) if isinstance(value, str) else repr(value)


def _yaml_string(text: str) -> str:
    if PLAIN_WORD.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    quoted: str = yaml.safe_dump(text, default_style='"', width=float("inf"))
    return quoted.rstrip("\n")
