"""Keeps what was predicted of the fresh ranks when they were looked at first.

    python benchmarks/memory/first_look.py

writes first_look.jsonl beside this file, in bytes, and fails where it is there: what the model says
later, when its errors on these ranks are known, is no prediction.
"""

import json

from design_errors import fresh
from predict import FOLDER

PAGE = FOLDER / "first_look.jsonl"


def main() -> None:
    """Write first_look.jsonl, once."""
    with PAGE.open("x", encoding="utf-8") as page:
        for rank in fresh():
            sizes = {name: round(predicted) for name, (predicted, _) in rank.pairs.items()}
            page.write(json.dumps({"id": rank.row.id, **sizes}) + "\n")


if __name__ == "__main__":
    main()
