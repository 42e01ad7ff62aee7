"""What a sentence to a user is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """`text` says what is wrong with which values; `fix` says the nearest thing that works (may be
    empty)."""

    text: str
    fix: str = ""
