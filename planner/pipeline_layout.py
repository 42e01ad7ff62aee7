"""Megatron-Core's language for which layers a pipeline's chunks hold.

E embedding, t decoder layer, m MTP layer, L loss, | between chunks; x*n repeats a letter or a bar,
(...)*n anything; commas mean nothing (megatron-core 0.16.1 and 0.18.1,
megatron/core/transformer/pipeline_parallel_layer_layout.py: parse_str_to_list).
"""

import re

from planner.errors import UsageError
from planner.yaml_files import shortened

LETTERS = "EtmL"
LONGEST_LAYOUT = 2**14  # letters and bars; more is a slip of the hand
_REPEATS = (re.compile(r"\(([^)]+)\)\*([0-9]+)"), re.compile(r"(.)\*([0-9]+)"))


def layout_chunks(text: str) -> list[str]:
    """The letters of every chunk, repetitions written out. Raises UsageError: setting.layout."""
    written = text.replace(",", "")
    for pattern in _REPEATS:
        length = len(written)
        for found in pattern.finditer(written):
            times = found.group(2).lstrip("0") or "0"
            if len(times) > len(str(LONGEST_LAYOUT)):
                raise _unreadable(text, f"it repeats {shortened(times)} times")
            length += len(found.group(1)) * int(times)
        if length > LONGEST_LAYOUT:
            raise _unreadable(text, f"it is longer than {LONGEST_LAYOUT} letters")
        written = pattern.sub(lambda found: found.group(1) * int(found.group(2)), written)
    chunks = written.split("|")
    strange = next((letter for letter in "".join(chunks) if letter not in LETTERS), None)
    if strange is not None:
        raise _unreadable(text, f"{strange!r} is not one of E, t, m and L")
    return chunks


def _unreadable(text: str, reason: str) -> UsageError:
    return UsageError("setting.layout", text=shortened(text), reason=reason)
