"""What `moe-convert` prints, as text and as JSON."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from planner.cluster import Assumption
from planner.report.answer import FORMAT_VERSION
from planner.report.numbers import billions, gib, with_unit
from planner.units import GIGA

NAME_WIDTH = 13
LONGEST = 1000  # characters of a sentence
MOST_SHOWN = 20  # sentences of one kind; --json has all
FORMATS = {
    "hugging-face": "Hugging Face's format",
    "adapter": "an adapter in PEFT's format",
    "torch_dist": "Megatron-Core's format",
}
DIRECTIONS = {"to_mcore": "To train", "to_hf": "Back"}
VERDICTS = {
    "sound": "sound: nothing was found to be wrong",
    "doubtful": "doubtful: look at what follows",
    "damaged": "damaged: do not use it",
}


def plan_to_json(plan: dict[str, Any], assumptions: Iterable[Assumption]) -> dict[str, Any]:
    """What each way of converting takes, as one object."""
    return {
        "format_version": FORMAT_VERSION,
        "conversion": plan,
        "assumptions": [asdict(each) for each in assumptions],
    }


def plan_text(plan: dict[str, Any], assumptions: Iterable[Assumption], width: int) -> str:
    """A table of the ways in both directions, what they are made of, and what was assumed."""
    weights = f"{gib(plan['weights_bytes'])} GiB in bfloat16"
    if plan["source_bytes"] != plan["weights_bytes"]:
        weights += f", {gib(plan['source_bytes'])} GiB as they are"
    tensors = f"{plan['tensors']} tensors " if plan["tensors"] else ""  # 0: not known by name
    lines = [*_named("Weights", f"{weights}   {tensors}({plan['origin']})", width)]
    for direction, title in DIRECTIONS.items():
        ways = [way for way in plan["ways"] if way["direction"] == direction]
        lines += ["", *_ways(title, ways, plan["recommended"][direction], width)]
    precision = plan["precision_test"]
    on_gpus, on_host = (gib(precision[f"{each}_memory_bytes"]) for each in ("gpu", "host"))
    needs = precision["needs"]
    lines += [
        "",
        *_named(
            "Precision",
            f"TEST_CONVERT_PRECISION=1 compares logits of both sides: {on_gpus} GiB more on the"
            " GPUs of the first node, where transformers loads the model once more, and then"
            f" {on_host} on its host" + (f"; it also needs {needs}" if needs else ""),
            width,
        ),
        *_named(
            "Smoke",
            "SMOKE=1 lets the converted model answer a question (swift infer):"
            f" {gib(plan['smoke']['gpu_memory_bytes'])} GiB on the GPUs of a node",
            width,
        ),
        *_listed("Assumed", map(_assumption, assumptions), width),
    ]
    return "\n".join(lines) + "\n"


def _assumption(each: Assumption) -> str:
    return f"{each.id} = {with_unit(each.value, each.unit)}   ({each.source})"


def _ways(
    title: str, ways: list[dict[str, Any]], best: dict[str, str] | None, width: int
) -> list[str]:
    """A line a way; below, which is recommended, and what the memory of each is made of."""
    head = f"{title:{NAME_WIDTH}}  {'':15} nodes x GPUs  GPU GiB  host GiB  disk GiB   minutes"
    lines = [head]
    for way in ways:
        mark = ">" if best and way["kind"] == best["kind"] else " "
        where = f"{way['num_nodes']} x {way['gpus_per_node']}"
        lines.append(
            f"{'':{NAME_WIDTH}}{mark} {way['kind']:15} {where:>12}"
            f"  {_amount(way['gpu_memory_bytes']):>7}  {_amount(way['host_memory_bytes']):>8}"
            f"  {gib(way['disk_bytes']):>8}  {way['seconds']['total'] / 60:>8.1f}"
        )
        lines += _named(
            "",
            f"    not possible: {way['obstacle']}" if way["obstacle"] else f"    {way['note']}",
            width,
        )
    why = f"{best['kind']}: {best['reason']}" if best else "none: no way is possible"
    lines += _named("", f"> {why}", width)
    for kind, name in (("gpu_memory_bytes", "a GPU"), ("host_memory_bytes", "a node's host")):
        for way in ways:
            parts = {part: size for part, size in way[kind].items() if part != "total"}
            if parts and not way["obstacle"]:
                made = ", ".join(f"{_words(part)} {gib(size)}" for part, size in parts.items())
                lines += _named("", f"{way['kind']}, {name}: {made}", width)
    return lines


def _amount(memory: dict[str, int]) -> str:
    """GiB of a kind of memory; a dash where training itself takes it."""
    return gib(memory["total"]) if memory["total"] else "-"


def _words(term_id: str) -> str:
    return term_id.replace("_", " ")


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
    # Names of tensors and files come from the checkpoint: a terminal must not obey them.
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return textwrap.wrap(
        textwrap.shorten(printable, LONGEST) if len(printable) > LONGEST else printable,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
