"""The planner is pure, and its modules and functions are small."""

import ast
from pathlib import Path

import pytest

import planner

FOLDER = Path(planner.__file__).parent
MODULES = sorted(FOLDER.rglob("*.py"))
# No training stack, no network, no processes, no clock.
FORBIDDEN = {
    "datetime",
    "http",
    "httpx",
    "huggingface_hub",
    "mcore_bridge",
    "megatron",
    "modelscope",
    "requests",
    "socket",
    "subprocess",
    "swift",
    "time",
    "torch",
    "transformer_engine",
    "transformers",
    "urllib",
    "urllib3",
}


def imported(tree: ast.AST) -> set[str]:
    """The top-level packages that a module imports, at its head or inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def module_id(path: Path) -> str:
    return str(path.relative_to(FOLDER))


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_a_module_imports_nothing_that_is_not_pure(path: Path) -> None:
    allowed = {"time"} if path == FOLDER / "cli.py" else set()  # how long the search took

    assert not imported(ast.parse(path.read_text(encoding="utf-8"))) & (FORBIDDEN - allowed)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines below the signature, the docstring among them."""
    assert function.end_lineno is not None
    return function.end_lineno - function.body[0].lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_a_module_and_its_functions_fit_a_reader(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    long = {
        node.name: body_lines(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > 40
    }

    assert len(text.splitlines()) <= 400
    assert not long


def test_only_reports_are_made_of_rich() -> None:
    """What formats numbers for people stands apart."""
    users = {module_id(path) for path in MODULES if "rich" in imported(ast.parse(path.read_text()))}

    assert {user for user in users if not user.startswith("report/")} <= {"cli.py"}
