"""Every sentence that the program says to a user about a mistake or a choice: an id, a text and a
way out.

Texts are `str.format` templates; `planner.errors` and `planner.plan.Reason` fill in the values.
Lower case, no trailing dot: they are shown after a prefix and can be translated by replacing this
table. Each group has a module of its own.
"""

from planner.messages import (
    calibrate,
    config,
    convert,
    files,
    images,
    inputs,
    launching,
    names,
    no_fit,
    reasons,
    releases,
    rules,
    runs,
    setting_rules,
    settings,
    topologies,
    verify,
)
from planner.messages.message import Message

__all__ = ["MESSAGES", "Message"]

_GROUPS = (
    files,
    config,
    names,
    releases,
    topologies,
    runs,
    launching,
    inputs,
    settings,
    images,
    reasons,
    no_fit,
    rules,
    setting_rules,
    verify,
    calibrate,
    convert,
)

MESSAGES: dict[str, Message] = {
    id_: message for group in _GROUPS for id_, message in group.MESSAGES.items()
}
