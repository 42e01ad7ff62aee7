"""Sentences about releases of ms-swift and what became of its flags."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "flag.unknown_release": Message(
        "the arguments of ms-swift {release} are not known", "use a stack with one of {known}"
    ),
    "flag.too_new": Message(
        "ms-swift {release} has no --{flag}, which came with {since}",
        "use a stack with ms-swift {since} or later, or do without --{flag}",
    ),
    "flag.value_too_new": Message(
        "ms-swift {release} does not take --{flag} {value}, which came with {since}",
        "use a stack with ms-swift {since} or later, or another value",
    ),
    "hint.renamed": Message("--{old} is called --{now} since ms-swift {since}"),
    "hint.inverted": Message(
        "--{old} is called --{now} since ms-swift {since}, with the opposite sense"
    ),
    "hint.converted": Message("--{old} became --{now} with ms-swift {since}: {converted}"),
    "hint.removed": Message("--{old} is gone since ms-swift {since}: {instead}"),
    "way.option": Message("use {option}"),
    "way.searched": Message("leave it to the search, or give {option} to plan check"),
    "way.recipe": Message("give --set {flag}=VALUE, or set it in a YAML file for --recipe"),
    "way.setting": Message("give --set {flag}=VALUE"),
    "way.free": Message("give --set {flag}=VALUE"),
    "way.refused": Message("{flag} cannot be set: {why}"),
    "way.site": Message("set {flag} in the site, a YAML file for --site"),
    "way.none": Message("leave it out"),
    "way.called": Message("ms-swift calls it {flag}: with plan, {way}"),
    "way.elsewhere": Message("{flag} is a flag of ms-swift: with plan, {way}"),
}
