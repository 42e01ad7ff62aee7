"""The YAML file of the stack that an image holds."""

import json
import re
from typing import Any

from planner.detection import VERSIONS, Detection
from planner.releases import version_of
from planner.stack import FIELDS, VERSION_PATTERN


def draft(found: Detection) -> str:
    """The text of a stack file; what an image does not show is taken from the nearest stack, and
    marked as assumed. `planner.detection.check_complete` holds."""
    lines = [
        "# Written by plan stack detect. Correct what is assumed, if you know better.",
        f"description: {json.dumps(f'what {found.origin} holds')}",
    ]
    values = _values(found)
    for name in FIELDS:
        lines += _lines(name, *values[name])
    return "\n".join(lines) + "\n"


def _values(found: Detection) -> dict[str, tuple[Any, str, bool]]:
    """Value, source and whether it is assumed, by field."""
    nearest, here = found.nearest, found.capabilities
    values: dict[str, tuple[Any, str, bool]] = {name: _version(found, name) for name in VERSIONS}
    values["apex"] = (here["apex"] is not None, found.origin, False)
    flash = here["flash_attention"] is not None
    backend = nearest.attention_backend if flash else "auto"
    reason = "as in " + nearest.name if flash else "flash needs flash-attn, which is not there"
    values["attention_backend"] = (backend, reason, flash)
    values["allocator_setting"] = (
        nearest.allocator_setting,
        f"as in {nearest.name}: an environment variable, which no package shows",
        True,
    )
    flex = here["deep_ep"] is not None
    dispatchers = ["alltoall", "flex"] if flex else ["alltoall"]
    values["dispatchers"] = (dispatchers, f"deep_ep is {'' if flex else 'not '}there", False)
    return values


def _version(found: Detection, field: str) -> tuple[str, str, bool]:
    version = found.versions[field]
    if version is None:
        return "", found.origin, False
    if not version_of(version):
        source = f"{found.origin} does not say which: as in {found.nearest.name}"
        return getattr(found.nearest, field), source, True
    numbers = ".".join(str(part) for part in (*version_of(version), 0, 0)[:3])
    is_read = re.fullmatch(VERSION_PATTERN, version) is not None
    exact = field != "megatron_core" and is_read
    return version if exact else numbers, f"{found.origin}: {version}", False


def _lines(name: str, value: Any, source: str, assumed: bool) -> list[str]:
    # JSON is YAML
    lines = [f"{name}:", f"  value: {json.dumps(value)}", f"  source: {json.dumps(source)}"]
    return [*lines, "  assumed: true"] if assumed else lines
