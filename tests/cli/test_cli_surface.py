"""The words that users and their scripts rely on: every command and option, frozen."""

import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from golden_files import check_golden

ROOT = Path(__file__).parent.parent.parent
COMMANDS = {"plan": "planner.cli", "moe-launch": "launch.cli", "moe-convert": "convert.cli"}


def lines(name: str, command: Any) -> Iterator[str]:
    """A line for each option and argument of a command and of those below it."""
    yield name
    for parameter in command.params:
        words = " ".join([*parameter.opts, *parameter.secondary_opts])
        required = " (required)" if parameter.required else ""
        default = parameter.default
        shown = "" if default is None or callable(default) else f" = {default}"
        yield f"  {words}{shown}{required}"
    for below, child in getattr(command, "commands", {}).items():
        yield from lines(f"{name} {below}", child)


@pytest.mark.parametrize("name", COMMANDS)
def test_golden_surface(name: str) -> None:
    command = typer.main.get_command(importlib.import_module(COMMANDS[name]).app)
    check_golden(f"cli/surface-{name}.txt", "\n".join(lines(name, command)) + "\n")


def test_no_other_command_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = {name: f"{module}:main" for name, module in COMMANDS.items()}
    assert project["scripts"] == installed | {"plan": "planner.entry:main"}  # which calls plan's


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    def commands(command: Any) -> Iterator[Any]:
        yield command
        for child in getattr(command, "commands", {}).values():
            yield from commands(child)

    for command in commands(typer.main.get_command(importlib.import_module(COMMANDS[name]).app)):
        for parameter in command.params:
            assert getattr(parameter, "help", None), (command.name, parameter.name)
