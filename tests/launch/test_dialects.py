"""The names and values of each release, held against its own source."""

import ast
import importlib.util
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from runs import golden_cases
from stack import wheel

from convert.scripts import Direction, conversion_args, has_single_process
from launch.arguments import model_args, train_args
from planner.dialects import (
    dropped,
    load_dialect,
    model_folder_name,
    model_hint,
    model_hints,
    translate,
    words,
)
from planner.run import Run

RELEASES = ["4.6", "3.12"]


@cache
def installed_swift() -> Path:
    """Return the folder of the installed ms-swift, without importing it."""
    spec = importlib.util.find_spec("swift")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@cache
def fields_of(release: str, command: str) -> dict[str, wheel.Field]:
    """Return the arguments of a command of a release."""
    classes = (
        wheel.classes_of_package(installed_swift())
        if release == "4.6"
        else wheel.classes_of_wheel(wheel.wheel(release))
    )
    return wheel.wheel_fields(classes, wheel.ARGUMENT_CLASSES[release][command])


def runs_of(release: str) -> list[Run]:
    """Return the runs of a dialect."""
    return [case.run for case in golden_cases() if case.run.stack.dialect == release]


@pytest.mark.parametrize("release", RELEASES)
def test_every_flag_is_a_field_of_the_release_with_a_value_that_it_takes(release: str) -> None:
    dialect = load_dialect(release)
    fields = fields_of(release, "megatron sft")
    for run in runs_of(release):
        for flag, value in translate(train_args(run), dialect).items():
            assert flag in fields, f"ms-swift {release} has no --{flag}"
            assert fields[flag].refuses(words(value)) is None, flag


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("command", ["megatron export", "swift export"])
def test_every_flag_of_a_conversion_is_a_field_too(
    release: str, direction: Direction, command: str
) -> None:
    single_process = command == "swift export"
    fields = fields_of(release, command)
    for run in runs_of(release):
        if single_process and not has_single_process(run, direction):
            continue
        args = conversion_args(run, direction, single_process=single_process)
        flags = translate(args, load_dialect(release), single_process=single_process)
        for flag, value in flags.items():
            assert flag in fields, f"ms-swift {release}: {command} has no --{flag}"
            assert fields[flag].refuses(words(value)) is None, flag


@pytest.mark.parametrize("release", RELEASES)
def test_every_name_in_the_tables_is_a_field_of_the_release(release: str) -> None:
    dialect = load_dialect(release)
    both = fields_of(release, "megatron sft") | fields_of(release, "megatron export")
    assert {flag.name for flag in dialect.flags.values() if flag.name} <= set(both)
    single = fields_of(release, "swift export")
    assert {flag.name for flag in dialect.single_process_flags.values()} <= set(single)


def test_an_entry_of_3_12_is_needed_and_canonical() -> None:
    """Each is a field of 4.6 that 3.12 does not have under the same name."""
    new = fields_of("4.6", "megatron sft") | fields_of("4.6", "megatron export")
    old = fields_of("3.12", "megatron sft")
    for canonical in load_dialect("3.12").flags:
        assert canonical in new
        assert canonical not in old, canonical


def test_booleans_of_the_opposite_sense_are_inverted() -> None:
    args = {"gradient_accumulation_fusion": True}
    assert translate(args, load_dialect("3.12")) == {"no_gradient_accumulation_fusion": False}
    assert translate(args, load_dialect("4.6")) == args


def test_what_a_release_cannot_say_is_left_out_with_a_reason() -> None:
    args = {"save_total_limit": 2, "lr": 1e-5}
    assert translate(args, load_dialect("3.12")) == {"lr": 1e-5}
    assert list(dropped(args, load_dialect("3.12"))) == ["save_total_limit"]
    assert dropped(args, load_dialect("4.6")) == {}


# -- models that ms-swift recognises


def model_sources(release: str) -> Iterator[str]:
    """Return the sources in which a release registers models."""
    if release == "4.6":
        folder = installed_swift() / "model" / "models"
        yield from (path.read_text("utf-8") for path in folder.glob("*.py"))
        return
    with zipfile.ZipFile(wheel.wheel(release)) as archive:
        for name in archive.namelist():
            if name.startswith("swift/llm/model/model/") and name.endswith(".py"):
                yield archive.read(name).decode("utf-8")


@cache
def registered(release: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return per model name, in lower case, its model_type and the templates of that type."""
    models: dict[str, tuple[str, frozenset[str]]] = {}
    for source in model_sources(release):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ModelMeta" and node.args:
                model_type = ast.unparse(node.args[0]).rsplit(".", 1)[-1]
                templates = frozenset(
                    part.attr
                    for part in ast.walk(node)
                    if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "TemplateType"
                )
                for name in _model_names(node):
                    models.setdefault(name.rsplit("/", 1)[-1].lower(), (model_type, templates))
    return models


def _model_names(meta: ast.Call) -> Iterator[str]:
    for part in ast.walk(meta):
        if isinstance(part, ast.Call) and ast.unparse(part.func) == "Model":
            yield from (
                argument.value
                for argument in part.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


@pytest.mark.parametrize("release", RELEASES)
def test_known_names_are_names_that_the_release_knows(release: str) -> None:
    for model_type, hints in model_hints().items():
        unknown = set(hints.known_names) - set(registered(release))
        assert not unknown, model_type


@pytest.mark.parametrize("release", RELEASES)
def test_hints_are_a_type_and_a_template_that_the_release_has(release: str) -> None:
    pairs = set(registered(release).values())
    for hints in model_hints().values():
        hint = hints.hints[release]
        assert any(hint.model_type == kind and hint.template in has for kind, has in pairs), hint


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/Qwen3-30B-A3B/", "qwen3-30b-a3b"),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("/hub/models--Qwen--Qwen3-30B-A3B/snapshots/0123abcd", "qwen3-30b-a3b"),
        ("/cache/Qwen/Qwen2___5-7B", "qwen2.5-7b"),
    ],
)
def test_the_name_of_a_model_folder_is_found_as_ms_swift_finds_it(path: str, name: str) -> None:
    assert model_folder_name(path) == name


def test_a_folder_with_another_name_is_described() -> None:
    assert model_hint("qwen3_moe", "/models/Qwen3-30B-A3B", "4.6") is None
    hint = model_hint("qwen3_moe", "/models/step-1200", "4.6")
    assert hint is not None
    assert (hint.model_type, hint.template) == ("qwen3_moe", "qwen3")


def test_the_site_decides_how_a_model_is_read() -> None:
    case = next(case for case in golden_cases() if case.name == "moe-lora-4.6")
    assert model_args(case.run)["template"] == "qwen3"
