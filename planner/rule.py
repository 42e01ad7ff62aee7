"""What a rule is, and a broken one."""

from collections.abc import Callable
from dataclasses import dataclass, field

from planner.checks import Values
from planner.problem import Problem, Sizes

Version = tuple[int, int, int]
NEVER: Version = (99, 0, 0)

Check = Callable[[Problem, Sizes], Values | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """`check` returns the values of the message `rule.<id>` when the rule is broken, else None.

    `level` is the deepest size that it reads, so that a search can refuse a whole subtree at once.
    Holds for megatron-core releases from `since` up to, not including, `until`. A layout that
    breaks an `evaluable` rule still has a memory and a time. What Transformer Engine, a GPU or a
    host refuses is of the kind `engine`: no machine without a GPU can show it.
    """

    id: str
    level: str  # grid | pipeline | batch | recompute
    check: Check
    source: str
    kind: str = "illegal"  # illegal | placement | engine
    since: Version = (0, 0, 0)
    until: Version = NEVER
    forgotten: bool = False
    evaluable: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule with the values that show it."""

    rule: Rule
    values: Values = field(hash=False)

    @property
    def message_id(self) -> str:
        """Id of its sentence in `planner.messages`."""
        return f"rule.{self.rule.id}"
