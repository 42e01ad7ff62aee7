"""What runs that are far off have in common: the first of REASONS that applies."""

from collections.abc import Callable
from dataclasses import dataclass

from published_runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why some runs are far off."""

    applies: Callable[[Run], bool]
    text: str


def _is_packed(run: Run) -> bool:
    return "mean_document_tokens" in run.facts


REASONS = {
    "packed": Reason(
        applies=_is_packed,
        text="fine-tuning on packs of short documents, runs that their source calls sanity checks",
    ),
    "rest": Reason(applies=lambda run: True, text="not explained"),
}


def reason_of(run: Run) -> str:
    """The key of the reason that a run is far off for."""
    return next(key for key, reason in REASONS.items() if reason.applies(run))
