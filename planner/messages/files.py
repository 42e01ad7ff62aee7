"""Sentences about mistakes in files that people write."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "file.unreadable": Message(
        "{path} cannot be read: {reason}", "check the path and its permissions"
    ),
    "file.not_yaml": Message(
        "{path} is not valid YAML: {reason}", "mend the file at the place named"
    ),
    "file.not_json": Message(
        "{path} is not valid JSON: {reason}", "the file may be cut short: fetch it again"
    ),
    "file.too_deep": Message(
        "{path} is nested too deep to be read", "check that it is the file that you mean"
    ),
    "file.duplicate_key": Message(
        "{path}: key {key} stands twice in one object", "keep one of the two"
    ),
    "file.unknown_key": Message("{path}: unknown key {key!r}", "{suggestion}"),
    "file.missing_key": Message(
        "{path}: {key} is missing", "add it; a file that comes with the planner shows the form"
    ),
    "file.bad_value": Message("{path}: {key}: {reason} (got {value})", "correct this value"),
}
