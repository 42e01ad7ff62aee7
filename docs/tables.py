"""Tables of the documents that are written from the planner's own."""

from collections.abc import Iterable


def code(text: str) -> str:
    """As code."""
    return f"`{text}`"


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Rows under their heads."""
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(line(cells) for cells in lines)


def line(cells: tuple[str, ...]) -> str:
    """A row."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
