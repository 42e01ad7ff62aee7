"""What `moe-convert` prints, as text and as JSON."""

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from planner.report.answer import FORMAT_VERSION
from planner.report.numbers import billions, gib
from planner.units import GIGA

NAME_WIDTH = 13
MOST_SHOWN = 20  # sentences of one kind; --json has all
FORMATS = {"hugging-face": "Hugging Face's format", "torch_dist": "Megatron-Core's format"}
VERDICTS = {
    "sound": "sound: nothing was found to be wrong",
    "doubtful": "doubtful: look at what follows",
    "damaged": "damaged: do not use it",
}


def verification_to_json(verification: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What a check found, as one object."""
    return {"format_version": FORMAT_VERSION, "verification": verification, "seconds": seconds}


def verification_text(verification: dict[str, Any], seconds: float, width: int) -> str:
    """What a check found: the verdict, all that is wrong, and what was and was not checked."""
    rate = verification["bytes_read"] / GIGA / seconds if seconds else 0.0
    read = (
        f"{verification['tensors']} tensors, {billions(verification['parameters'])} parameters;"
        f" {gib(verification['bytes_read'])} GiB in {seconds:.1f} s, {rate:.1f} GB/s"
    )
    lines = [
        *_named("Checkpoint", f"{verification['checkpoint']}   {_format(verification)}", width),
        *_named("Verdict", VERDICTS[verification["verdict"]], width),
        *_named("Read", read, width),
    ]
    for severity in ("damage", "doubt"):
        found = [each for each in verification["findings"] if each["severity"] == severity]
        lines += _listed(severity.capitalize(), _sentences(found), width)
    lines += _listed("Checked", verification["checks"], width)
    lines += _listed("Not checked", verification["not_checked"], width)
    return "\n".join(lines) + "\n"


def _format(verification: dict[str, Any]) -> str:
    return FORMATS[verification["kind"]]


def _sentences(findings: list[dict[str, Any]]) -> Iterator[str]:
    """Findings as sentences; of many that differ in numbers only, the first and their number."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        pattern = re.sub(r"\d+", "#", str(finding["values"].get("tensor", finding["message"])))
        groups.setdefault(f"{finding['id']} {pattern}", []).append(finding)
    for group in list(groups.values())[:MOST_SHOWN]:
        more = f" (and {len(group) - 1} more like it)" if len(group) > 1 else ""
        fix = f"; {group[0]['fix']}" if group[0]["fix"] else ""
        yield f"{group[0]['message']}{more}{fix}"
    if len(groups) > MOST_SHOWN:
        yield f"and {len(groups) - MOST_SHOWN} kinds more: --json lists all"


def _listed(name: str, sentences: Any, width: int) -> list[str]:
    """Sentences below one name, which stands before the first."""
    lines = []
    for number, sentence in enumerate(sentences):
        lines += _named("" if number else name, sentence, width)
    return lines


def _named(name: str, text: str, width: int) -> list[str]:
    indent = " " * NAME_WIDTH
    first = f"{name:{NAME_WIDTH}}"
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
