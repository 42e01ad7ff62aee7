"""Reads the fields of a config.json by the rules of an architecture."""

from collections.abc import Mapping
from typing import Any

from planner.architectures.rules import (
    IRRELEVANT,
    Anything,
    Boolean,
    Integer,
    OneOf,
    Pattern,
    Required,
    Rule,
)
from planner.errors import UsageError
from planner.yaml_files import shortened, suggestion

Fields = Mapping[str, Any]


def read_fields(
    config: Fields, rules: Mapping[str, Rule], model_type: str, origin: str
) -> dict[str, Any]:
    """The checked values of all rules but those of fields that bear on nothing, by rule.

    Raises UsageError: config.unknown_field, config.missing_field, config.bad_field,
    config.unsupported_value, config.inconsistent.
    """
    read_as = {name: key for key, rule in rules.items() for name in rule.names or (key,)}
    given: dict[str, tuple[str, Any]] = {}
    for name, value in config.items():
        if name in read_as:
            key = read_as[name]
            other, same = given.setdefault(key, (name, value))
            if name != other and _differ(same, value):
                raise inconsistent(origin, f"{other} and {name} are one field and differ")
        elif name not in IRRELEVANT and name != "model_type":
            raise UsageError(
                "config.unknown_field",
                origin=origin,
                field=shortened(name),
                value=shortened(value),
                model_type=model_type,
                suggestion=suggestion(name, read_as),
            )
    return {
        key: _value(given.get(key), key, rule, origin)
        for key, rule in rules.items()
        if not isinstance(rule, Anything)
    }


def _differ(one: object, other: object) -> bool:
    """Whether two values are not one; NaN twice is one mistake, no difference."""
    both_nan = one != one and other != other
    return type(one) is not type(other) or (one != other and not both_nan)


def _value(given: tuple[str, Any] | None, key: str, rule: Rule, origin: str) -> Any:
    """The checked value of one field, or what its absence means."""
    if given is None:
        if isinstance(rule.default, Required):
            raise UsageError("config.missing_field", origin=origin, field=(*rule.names, key)[0])
        return rule.default
    name, value = given
    match rule:
        case OneOf():
            _check_choice(rule, name, value, origin)
        case Boolean():
            if not isinstance(value, bool):
                raise bad_field(origin, name, "true or false", value)
        case Integer():
            _check_integer(rule, name, value, origin)
        case Pattern():
            words = isinstance(value, list) and all(word in rule.words for word in value)
            if value is not None and not words:
                raise bad_field(origin, name, f"a list of {' and '.join(rule.words)}", value)
    return value


def _check_integer(rule: Integer, name: str, value: object, origin: str) -> None:
    if value is None and rule.nullable:
        return
    if type(value) is not int or not rule.minimum <= value <= rule.maximum:
        expected = f"a whole number from {rule.minimum} to {rule.maximum}"
        raise bad_field(origin, name, expected, value)


def _check_choice(rule: OneOf, name: str, value: object, origin: str) -> None:
    if any(value == one and type(value) is type(one) for one in rule.values):
        return
    named = [repr(one) for one in rule.values if one is not None]
    raise UsageError(
        "config.unsupported_value",
        origin=origin,
        field=name,
        value=shortened(value),
        allowed=" or ".join(named or ["null"]),
        why=rule.why,
    )


def check_multiple(fields: Fields, name: str, divisor: str, origin: str) -> None:
    """Refuse a size that is no multiple of another. Raises UsageError: config.inconsistent."""
    value, by = fields[name], fields[divisor]
    if by is not None and value % by != 0:
        raise inconsistent(origin, f"{name} ({value}) is not a multiple of {divisor} ({by})")


def inconsistent(origin: str, equation: str) -> UsageError:
    """The error of fields that contradict each other."""
    return UsageError("config.inconsistent", origin=origin, equation=equation)


def bad_field(origin: str, name: str, expected: str, value: object) -> UsageError:
    """The error of a field of a wrong kind or size."""
    return UsageError(
        "config.bad_field", origin=origin, field=name, expected=expected, value=shortened(value)
    )
