"""A plan: one layout with everything that was predicted for it. Round-trips through JSON."""

from dataclasses import dataclass, field
from typing import Any

from planner.messages import MESSAGES


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something was chosen or refused: an id of `planner.messages` and its values."""

    id: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The sentence."""
        return MESSAGES[self.id].text.format_map(self.values)
