"""What is read from the source of a release is what its parser says."""

import ast
from pathlib import Path

import pytest

from stack import wheel
from stack.real_stack import RealStack

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("subcommand", wheel.ARGUMENT_CLASSES)
def test_the_fields_read_from_source_are_those_of_the_real_parser(
    stack: RealStack, subcommand: str
) -> None:
    """Names, choices, number of values and defaults, of 4.6.0, for which both can be had."""
    source = wheel.classes_of_package(Path(stack.call("package_folder")))
    read = wheel.wheel_fields(source, wheel.ARGUMENT_CLASSES[subcommand])
    real = stack.call("options", subcommand=subcommand)

    assert set(read) == set(real)
    for name, field in read.items():
        assert field.choices == set(real[name]["choices"]), name
        assert field.many == (real[name]["nargs"] in ("+", "*")), name
        if not isinstance(field.default, ast.expr):
            assert repr(field.default) == real[name]["default"], name
