"""Sentences about what an image holds."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "freeze.empty": Message(
        "{path} names no package", "give the text of pip freeze, pip list or conda list"
    ),
    "stack.incomplete": Message(
        "no stack can be written: {path} does not say the version of {packages}",
        "install it, or write the stack by hand with based_on: and the versions that you know",
    ),
    "image.not_there": Message("{package} is not installed: nothing can train"),
    "image.no_version": Message("{package} does not say its version"),
    "image.too_old": Message(
        "ms-swift {version} is older than {oldest}, the oldest whose arguments are known"
    ),
    "image.unknown_release": Message(
        "the arguments of ms-swift {version} are not known; those of {newest} or before are taken"
    ),
    "image.other_patch": Message(
        "the arguments of ms-swift {version} are taken to be those of {newest}, which were read"
    ),
    "image.twice": Message(
        "{package} is there in versions {versions}: which one runs depends on sys.path"
    ),
    "image.another_apex": Message("apex {version} is not NVIDIA's, which calls itself 0.1"),
}
