"""Reads the YAML files that people write, checked against a pydantic model."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from planner.errors import UsageError

MAX_FILE_BYTES = 2**20  # nobody writes a megabyte by hand; a larger file is the wrong file

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


# pydantic's types of mistakes, as sentences about a value
_WORDS = {
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "list_type": "must be a list",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "invalid_key": "must have a key that is text in quotes",
    "recursion_loop": "must not hold itself",
}

# What the patterns of the files that people write ask for
PATTERN_WORDS = {
    r"^/[^\x00]*$": "must be an absolute path",
    r"^[^\x00]*$": "must not hold a NUL character",
    r"^[A-Za-z0-9_.:/@-]*$": "must hold nothing but letters, digits and _ . : / @ -",
    r"^[A-Za-z0-9_.:/@-]+$": "must be letters, digits and _ . : / @ -, at least one",
    r"^[A-Za-z0-9_][A-Za-z0-9_.:@-]*$": "must be a machine's name or address, as ssh takes it",
    r"^[a-z0-9-]*$": "must be the name of a region such as cn-hangzhou",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "must be a name of letters, digits and _, no digit first",
    r"^(\d{1,4}(\.\d{1,4}){1,3}((a|b|rc|\.?dev|\.?post)\d{1,4})*(\+[a-z0-9.]+)?)?$": (
        "must be a version such as 2.8.0"
    ),
    r"^\d{1,4}(\.\d{1,4}){1,3}((a|b|rc|\.?dev|\.?post)\d{1,4})*(\+[a-z0-9.]+)?$": (
        "must be a version such as 4.6.0"
    ),
    r"^\d{1,4}\.\d{1,4}\.\d{1,4}$": "must be a version of three numbers such as 0.16.1",
    r"^\d{1,2}\.\d$": "must be two numbers with a dot such as 9.0",
}


class StrictModel(BaseModel):
    """A pydantic model that refuses unknown keys and does not turn one type into another."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True
    )


Value = TypeVar("Value")
Model = TypeVar("Model", bound=StrictModel)


class Sourced(StrictModel, Generic[Value]):
    """A value with where it comes from; `assumed` when nobody published or measured it."""

    value: Value
    source: Annotated[str, Field(min_length=1)]
    assumed: bool = False


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like `name`, or all of them when none does, in words."""
    known = list(known)
    near = nearest(name, known)
    return f"the nearest is {near}" if near else "known: " + ", ".join(sorted(known))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, in any case; None when none does."""
    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return folded[close[0]] if close else None


def looks_like_path(name_or_path: str) -> bool:
    """Whether a user means a file, not a name that comes with the planner."""
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def named_file(name_or_path: str, folder: Path) -> Path | None:
    """The YAML file that a user means: a path if it looks like one, else by its name in `folder`.

    Upper and lower case are the same. None when no file of the folder has the name.
    """
    if looks_like_path(name_or_path):
        return Path(name_or_path)
    by_name = {path.stem.casefold(): path for path in folder.glob("*.yaml")}
    return by_name.get(name_or_path.casefold())


def known_names(folder: Path) -> list[str]:
    """The names of the YAML files of a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises UsageError (file.unreadable) when it is missing, unreadable, too large or not text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")  # some editors write a byte order mark
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError("file.unreadable", path=path, reason=reason.lower()) from None
    except ValueError:  # not UTF-8, or a NUL in the path
        raise UsageError("file.unreadable", path=path, reason="it is not a text file") from None
    if len(content) > MAX_FILE_BYTES:
        reason = f"it is larger than {MAX_FILE_BYTES} bytes"
        raise UsageError("file.unreadable", path=path, reason=reason)
    return text


def load_yaml_model(path: Path, model: type[Model]) -> Model:
    """The file as an instance of `model`.

    Raises UsageError: file.unreadable, not_yaml, too_deep, unknown_key, missing_key, bad_value.
    """
    return checked(path, load_yaml(path), model)


def load_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises UsageError: file.unreadable, not_yaml, too_deep."""
    text = read_text(path)
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise UsageError("file.too_deep", path=path) from None
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: an impossible date, a number of 5000 digits.
        raise UsageError("file.not_yaml", path=path, reason=one_line(error)) from None


def checked(path: Path, content: object, model: type[Model]) -> Model:
    """What a file holds as an instance of `model`.

    Raises UsageError: file.unknown_key, missing_key, bad_value.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _usage_error(path, model, error) from None


def _usage_error(path: Path, model: type[StrictModel], error: ValidationError) -> UsageError:
    """One mistake of a validation, as a sentence about the key that holds it.

    An unknown key comes first: where a key is misspelt, the right one is missing too.
    """
    mistakes = error.errors(include_url=False)
    first = min(mistakes, key=lambda mistake: mistake["type"] != "extra_forbidden")
    location = _place(first["loc"])
    key = _key(location)
    if first["type"] == "extra_forbidden":
        hint = _suggested_key(str(location[-1]), _keys_at(model, location[:-1]))
        return UsageError("file.unknown_key", path=path, key=key, suggestion=hint)
    if first["type"] == "missing":
        return UsageError("file.missing_key", path=path, key=key)
    value = "nothing" if first["input"] is None else shortened(first["input"])
    return UsageError("file.bad_value", path=path, key=key, reason=_reason(first), value=value)


def _suggested_key(key: str, known: list[str]) -> str:
    """What an unknown key may have been: a flag of ms-swift, or a key that looks alike."""
    from planner.old_flags import explain_key  # which reads a file itself

    return explain_key(key, known) or suggestion(key, known)


def _reason(mistake: ErrorDetails) -> str:
    """What is wrong with a value, in words that do not need Python."""
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "string_type" and _is_unquoted(mistake["input"]):
        return "must be text in quotes"
    if kind == "string_pattern_mismatch":
        return PATTERN_WORDS.get(context["pattern"], "is not of the form that this key needs")
    if kind in _WORDS:
        return _WORDS[kind].format_map(context)
    reason = one_line(mistake["msg"].removeprefix("Value error, "))
    return reason[:1].lower() + reason[1:]


def _place(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The keys of a location, without what pydantic adds for a key or one of several types."""
    last = str(location[-1]) if location else ""
    added = last == "[key]" or last.startswith(("constrained-", "literal["))
    return location[:-1] if added else location


def _key(location: tuple[int | str, ...], limit: int = 100) -> str:
    """The place of a value in a file, with dots; `the file` for all of it."""
    key = one_line(".".join(str(part) for part in location)) or "the file"
    return key if len(key) <= limit else key[: limit - 3] + "..."


def _keys_at(model: type[StrictModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that `model` knows at a place of the file."""
    current = model
    for part in location:  # a place in a list, or a name that a mapping is free to have, is no key
        field = current.model_fields.get(str(part))
        current = (_model_in(field.annotation) if field else None) or current
    return list(current.model_fields)


def _model_in(annotation: Any) -> type[StrictModel] | None:
    """The model that an annotation names, alone or in a list, a mapping or a choice."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def one_line(message: object) -> str:
    """`str(message)` with every run of white space as one space."""
    return " ".join(str(message).split())


def shortened(value: object, limit: int = 60) -> str:
    """`repr(value)` on one line and not longer than `limit` characters."""
    try:
        text = one_line(repr(value))
    except (ValueError, RecursionError):  # an integer too long to print, nesting without end
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _is_unquoted(value: object) -> bool:
    """Whether YAML read a number or a date where text without quotes stands."""
    return isinstance(value, int | float) or hasattr(value, "isoformat")
