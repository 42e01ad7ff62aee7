"""What a check says about a checkpoint: sentences with their values, and how bad each is."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from planner.messages import MESSAGES


class Severity(StrEnum):
    """How bad a finding is."""

    DAMAGE = "damage"  # the checkpoint is wrong
    DOUBT = "doubt"  # it may be meant so: a person has to look


class Verdict(StrEnum):
    """What all findings together say."""

    SOUND = "sound"
    DOUBTFUL = "doubtful"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A sentence of `planner.messages` about one tensor or one file."""

    id: str
    severity: Severity
    values: dict[str, Any]

    @property
    def message(self) -> str:
        """What is wrong, with its values."""
        return MESSAGES[self.id].text.format_map(self.values)

    @property
    def fix(self) -> str:
        """The way out; may be empty."""
        return MESSAGES[self.id].fix.format_map(self.values)


def damage(message_id: str, **values: Any) -> Finding:
    """A finding that makes a checkpoint wrong."""
    return Finding(id=f"convert.{message_id}", severity=Severity.DAMAGE, values=values)


def doubt(message_id: str, **values: Any) -> Finding:
    """A finding that a person has to judge."""
    return Finding(id=f"convert.{message_id}", severity=Severity.DOUBT, values=values)


class DamagedFileError(Exception):
    """A file that cannot be read as what it should be."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.message)


@dataclass(slots=True, kw_only=True)
class Verification:
    """What was checked of a checkpoint, how much of it, and what was found."""

    checkpoint: str
    kind: str  # "hugging-face", "adapter" or "torch_dist"
    checks: list[str] = field(default_factory=list)  # what was checked, as sentences
    not_checked: list[str] = field(default_factory=list)  # what was not, and why
    findings: list[Finding] = field(default_factory=list)
    tensors: int = 0
    parameters: int = 0
    bytes_read: int = 0

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
        severities = {finding.severity for finding in self.findings}
        if Severity.DAMAGE in severities:
            return Verdict.DAMAGED
        return Verdict.DOUBTFUL if severities else Verdict.SOUND

    def to_json(self) -> dict[str, Any]:
        """The verification as plain values."""
        return {
            "checkpoint": self.checkpoint,
            "kind": self.kind,
            "verdict": self.verdict.value,
            "findings": [
                {
                    "id": finding.id,
                    "severity": finding.severity.value,
                    "message": finding.message,
                    "fix": finding.fix,
                    "values": {name: _plain(value) for name, value in finding.values.items()},
                }
                for finding in self.findings
            ],
            "checks": self.checks,
            "not_checked": self.not_checked,
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes_read": self.bytes_read,
        }


def _plain(value: object) -> object:
    """A value as JSON has it, which knows no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, int | float | str | list | None) else str(value)
