"""Expected outputs, kept as files under tests/golden. `make golden` writes them again."""

import os
from pathlib import Path

from console import plan

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Holds a text against the file `name`; with WRITE_GOLDEN=1 writes the file instead."""
    path = GOLDEN / name
    if os.environ.get("WRITE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is missing: run `make golden` and review it"
    assert text == path.read_text(encoding="utf-8"), f"{name} has changed: `make golden`, review"


def check_screen(name: str, asked: tuple[str, ...], columns: int) -> None:
    """Holds what `plan` shows at a width against its file, and to that width."""
    ran = plan(*asked, columns=columns)
    assert (ran.status, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= columns
    assert ran.out.isascii()
    check_golden(f"cli/{name}-{columns}.txt", ran.out)
