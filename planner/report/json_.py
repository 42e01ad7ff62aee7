"""JSON on standard output: one object and nothing else."""

import json
from typing import Any


def as_json(content: dict[str, Any]) -> str:
    """The text of an object; NaN and infinity are our bugs."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
