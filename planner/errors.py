"""Errors that a user can meet.

PlannerError                 an id of `planner.messages`, with values
|-- UsageError               bad input: exit status 2
|-- NothingFitsError         the search found nothing that fits: exit status 3
`-- EnvironmentLacksError    a GPU, an extra or a credential is missing: exit status 4

Anything else that escapes is our bug and ends with exit status 1.
"""

from typing import Any

from planner.messages import MESSAGES


class PlannerError(Exception):
    """A message of `planner.messages` with its values; `str()` gives the sentence, `.fix` the way
    out."""

    exit_status = 1

    def __init__(self, message_id: str, /, **values: Any) -> None:
        self.message_id = message_id
        self.values = values
        template = MESSAGES[message_id]
        self.message = template.text.format_map(values)
        self.fix = template.fix.format_map(values)
        super().__init__(self.message)

    @property
    def lines(self) -> list[str]:
        """What a user reads: what is wrong and the way out, on one line."""
        return ["error: " + "; ".join(filter(None, [self.message, self.fix]))]


class UsageError(PlannerError):
    """What the user gave cannot be used."""

    exit_status = 2


class NothingFitsError(PlannerError):
    """Every legal layout needs more memory than a GPU has; `because` proves it."""

    exit_status = 3

    def __init__(
        self, message_id: str, /, *, because: list[str], ways_out: list[str], **values: Any
    ) -> None:
        super().__init__(
            message_id, because="; ".join(because), ways_out="; or ".join(ways_out), **values
        )
        self._lines = [f"error: {self.message}"]
        self._lines += [f"because: {each}" for each in because]
        self._lines += [f"try: {each}" for each in ways_out]
        self.message = f"{self.message}: {self.values['because']}"

    @property
    def lines(self) -> list[str]:
        """What a user reads: the conclusion, its proof, and each way out on a line of its own."""
        return self._lines


class EnvironmentLacksError(PlannerError):
    """The machine lacks something that the command needs."""

    exit_status = 4
