"""Expected outputs, kept as files under tests/golden. `make golden` writes them again."""

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Holds a text against the file `name`; with WRITE_GOLDEN=1 writes the file instead."""
    path = GOLDEN / name
    if os.environ.get("WRITE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is missing: run `make golden` and review it"
    assert text == path.read_text(encoding="utf-8"), f"{name} has changed: `make golden`, review"
