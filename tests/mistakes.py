"""Mistakes of a user on the command line, and what must be said of them."""

from dataclasses import dataclass

from console import EXAMPLE


@dataclass(frozen=True, slots=True)
class Mistake:
    """Words of a command line; parts of what must be said, the nearest fix among them."""

    words: tuple[str, ...]
    says: tuple[str, ...]


def of_example(*words: str, says: tuple[str, ...]) -> Mistake:
    return Mistake((*EXAMPLE, *words), says)


def of_check(*words: str, says: tuple[str, ...]) -> Mistake:
    return Mistake(("check", *EXAMPLE, *words), says)
