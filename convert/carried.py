"""The files beside the weights: the config, the tokenizer and the settings of generation."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from convert.findings import Finding, damage, doubt
from convert.hf_folder import CONFIG, HfFolder, read_json_object
from planner.errors import UsageError
from planner.model_config import model_spec_from_config
from planner.model_spec import ModelSpec
from planner.yaml_files import one_line

# One of each row must be there: what transformers 5.19 loads a tokenizer from.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model")
# What a source may have, and what then must be carried.
CARRIED = ("generation_config.json", "tokenizer_config.json")
# How images and sound are prepared: one of them, as transformers 5 writes both into the second.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def model_of(path: Path, config: dict[str, Any]) -> ModelSpec | None:
    """The model that the config.json of a folder describes; None for one that is not understood."""
    try:
        return model_spec_from_config(config, name=path.name, origin=str(path))
    except UsageError:
        return None


# What is wrong with a config.json itself, and not with what of it is known here.
_SPOILED = (
    "config.not_object",
    "config.missing_field",
    "config.bad_field",
    "config.inconsistent",
)


def spoiled_config(path: Path, config: dict[str, Any]) -> Finding | None:
    """What makes a config.json the config of no model; None for one that is just not known."""
    try:
        model_spec_from_config(config, name=path.name, origin=CONFIG)
    except UsageError as error:
        if error.message_id in _SPOILED:
            return damage("bad_config", reason=str(error).removeprefix(f"{CONFIG}: "))
    return None


def carried_files(path: Path, source: Path | None) -> Iterator[Finding]:
    """What is missing beside the weights, or is another than the source's."""
    if not any((path / name).exists() for name in TOKENIZER_FILES):
        yield damage("no_tokenizer", wanted=", ".join(TOKENIZER_FILES))
    for name in (*CARRIED, *TOKENIZER_FILES):
        here, there = path / name, source / name if source else None
        if here.exists() and here.suffix == ".json":
            yield from _json_file(here)
        elif there is not None and there.exists() and name in CARRIED:
            yield doubt("not_carried", file=name)
    if source is None:
        return
    yield from _not_carried(path, source)
    vocabularies = _vocabulary(path), _vocabulary(source)
    if None not in vocabularies and vocabularies[0] != vocabularies[1]:
        yield damage("other_vocabulary", source=source)
    if _chat_template(source) and not _chat_template(path):
        yield doubt("no_chat_template", source=source)


def _not_carried(path: Path, source: Path) -> Iterator[Finding]:
    """Code of the model, and how images and sound are prepared, that only the source has."""
    for code in sorted(source.glob("*.py")):
        if not (path / code.name).exists():
            yield doubt("not_carried", file=code.name)
    there = [name for name in PROCESSORS if (source / name).exists()]
    if there and not any((path / name).exists() for name in PROCESSORS):
        yield doubt("not_carried", file=there[0])


def other_model(folder: HfFolder, source: HfFolder) -> Iterator[Finding]:
    """What config.json says about the model that the source's says otherwise."""
    here, there = model_of(folder.path, folder.config), model_of(source.path, source.config)
    if here is None or there is None:
        for key in ("model_type", "num_hidden_layers", "hidden_size", "vocab_size"):
            if folder.config.get(key) != source.config.get(key):
                values = {"here": folder.config.get(key), "there": source.config.get(key)}
                yield damage("other_config", field=key, **values)
        return
    for name, (one, other) in _differences(here, there):
        if name not in _OF_A_COPY:
            yield damage("other_config", field=name, here=str(one), there=str(other))


_OF_A_COPY = ("name", "origin", "checkpoint_quantization")  # what copies of a model may differ in


def _differences(here: Any, there: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Fields in which two descriptions differ, those of their parts too."""
    for field in fields(here):
        values = getattr(here, field.name), getattr(there, field.name)
        if values[0] == values[1]:
            continue
        if is_dataclass(values[0]) and type(values[0]) is type(values[1]):
            for name, inner in _differences(*values):
                yield f"{field.name}.{name}", inner
        else:
            yield field.name, values


def _json_file(path: Path) -> Iterator[Finding]:
    try:
        read_json_object(path)
    except (OSError, ValueError) as error:
        yield damage("bad_file", file=path.name, reason=one_line(error))


def _object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; empty where there is none, which is said elsewhere."""
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return {}


def _vocabulary(path: Path) -> str | None:
    """The tokens of a folder's tokenizer.json, as text that can be compared."""
    content = _object(path / "tokenizer.json")
    model = content.get("model")
    if not isinstance(model, dict):
        return None
    added = content.get("added_tokens")
    tokens = {
        str(token.get("content")): token.get("id")
        for token in (added if isinstance(added, list) else [])
        if isinstance(token, dict)
    }
    return json.dumps([model.get("vocab"), tokens], sort_keys=True)


def _chat_template(path: Path) -> bool:
    has_file = any(path.glob("chat_template.*"))
    return has_file or bool(_object(path / "tokenizer_config.json").get("chat_template"))
