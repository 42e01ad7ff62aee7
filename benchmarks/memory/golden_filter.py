"""Reads golden_filter.yaml: which of Megatron-LM's published runs the memory model covers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Flags = Mapping[str, Any]
FILTER = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def uncovered_because(flags: Flags) -> str | None:
    """The first reason for which a run is not covered; None: it is."""
    given = {**FILTER["defaults"], **flags}
    for entry in FILTER["uncovered"]:
        if "with" in entry and flags.get(entry["with"], 1) == 1:
            continue
        if any(given.get(name) not in values for name, values in entry["flags"].items()):
            return str(entry["reason"])
    return None


def _flat(lines: list[list[str]]) -> list[str]:
    return [name for line in lines for name in line]


def flags_that_do_not_matter() -> dict[str, list[str]]:
    """By what they are about."""
    return {reason: _flat(lines) for reason, lines in FILTER["no_matter"].items()}


def known_flags() -> set[str]:
    """Every flag that the filter says something of."""
    found = set(_flat(FILTER["used"])).union(*flags_that_do_not_matter().values())
    return found.union(*(entry["flags"] for entry in FILTER["uncovered"]))
