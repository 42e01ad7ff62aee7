"""What `plan stack` prints, as text and as JSON."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from planner.detection import CAPABILITIES, VERSIONS, Detection
from planner.report.answer import FORMAT_VERSION
from planner.stack import Stack

NAME_WIDTH = 11
_MISSING = "-"
_UNSAID = "?"


def stacks_to_json(stacks: Iterable[Stack]) -> dict[str, Any]:
    """The known stacks in full."""
    found = [{**asdict(stack), "sources": dict(stack.sources)} for stack in stacks]
    return {"format_version": FORMAT_VERSION, "stacks": found}


def stacks_text(stacks: Sequence[Stack], *, width: int) -> str:
    """A table of the known stacks, and what each is."""
    heads = ("name", "ms-swift", "mcore-bridge", "megatron-core", "TE", "torch")
    rows = [
        (
            stack.name,
            stack.ms_swift,
            stack.mcore_bridge or _MISSING,
            stack.megatron_core,
            stack.transformer_engine or _MISSING,
            stack.torch,
        )
        for stack in stacks
    ]
    lines = [*_table([heads, *rows]), ""]
    name_width = max(len(stack.name) for stack in stacks) + 2
    for stack in stacks:
        lines += _named(stack.name, stack.description, width, name_width=name_width)
    return "\n".join(lines) + "\n"


def detection_to_json(found: Detection, *, written: str | None) -> dict[str, Any]:
    """What an image holds. A version is null where a package is missing, empty where not said."""
    return {
        "format_version": FORMAT_VERSION,
        "origin": found.origin,
        "versions": found.versions,
        "nearest": found.nearest.name,
        "differences": [asdict(each) for each in found.differences],
        "out_of_range": [
            {
                "package": each.package,
                "version": each.version,
                "permitted": str(each.permitted),
                "source": each.permitted.source,
            }
            for each in found.out_of_range
        ],
        "capabilities": {
            each.id: {
                "version": found.capabilities[each.id],
                "means": _means(found, each.id),
                "source": each.source,
            }
            for each in CAPABILITIES
        },
        "notes": [{"id": note.message_id, "text": note.text} for note in found.notes],
        "output": written,
    }


def detection_text(found: Detection, *, width: int, written: str | None, next_step: str) -> str:
    """What an image holds, beside its nearest stack; an empty `next_step` is left out."""
    differing = {each.field for each in found.differences}
    rows = [("", "here", found.nearest.name, "")]
    for field, names in VERSIONS.items():
        there = getattr(found.nearest, field) or _MISSING
        mark = "differs" if field in differing else ""
        rows.append((names[0], _shown(found.versions[field]), there, mark))
    there = "yes" if found.nearest.apex else _MISSING
    apex = _shown(found.capabilities["apex"])
    rows.append(("apex", apex, there, "differs" if "apex" in differing else ""))
    lines = [*_named("Image", found.origin, width)]
    lines += [*_named("Nearest", f"--stack {found.nearest.name}", width), "", *_table(rows), ""]
    for each in CAPABILITIES:
        sign = "+" if found.capabilities[each.id] is not None else _MISSING
        text = f"{each.distributions[0]}: {_means(found, each.id)}"
        lines += _named(sign, text, width, name_width=2)
    warnings = [note.text for note in found.notes]
    warnings += [
        f"{each.package} {each.version} is outside of {each.permitted} ({each.permitted.source})"
        for each in found.out_of_range
    ]
    lines += [""] if warnings else []
    for warning in warnings:
        lines += _named("!", warning, width, name_width=2)
    lines += [""] if written or next_step else []
    lines += _named("Written", written, width) if written else []
    lines += _named("Next", next_step, width) if next_step else []
    return "\n".join(lines) + "\n"


def _means(found: Detection, capability: str) -> str:
    each = next(each for each in CAPABILITIES if each.id == capability)
    return each.missing if found.capabilities[capability] is None else each.there


def _shown(version: str | None) -> str:
    return _MISSING if version is None else version or _UNSAID


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns as wide as they need."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _named(name: str, text: str, width: int, *, name_width: int = NAME_WIDTH) -> list[str]:
    """A text beside its name, wrapped."""
    return textwrap.wrap(
        text,
        width=max(width, name_width + 20),
        initial_indent=name.ljust(name_width),
        subsequent_indent=" " * name_width,
        break_on_hyphens=False,
    )
