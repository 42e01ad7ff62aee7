"""Formulas of tables, read from the source of their lambdas."""

import ast
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path


def formula_of(function: Callable[..., object]) -> str:
    """The body of a lambda of a table, as it stands in the source, but for its shape `s`."""
    line = function.__code__.co_firstlineno
    return ast.unparse(_lambdas(Path(inspect.getfile(function)))[line])


@cache
def _lambdas(path: Path) -> dict[int, ast.expr]:
    """The bodies of all lambdas of a file, by line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lambdas = {node.lineno: node.body for node in ast.walk(tree) if isinstance(node, ast.Lambda)}
    return {line: _WithoutShape().visit(body) for line, body in lambdas.items()}


class _WithoutShape(ast.NodeTransformer):
    """`s.tokens` as `tokens`, `_of_trained(s, x)` as `of_trained(x)`."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.Name(node.attr) if _is_shape(node.value) else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = ast.Name(ast.unparse(node.func).lstrip("_"))
        arguments = [each for each in node.args if not _is_shape(each)]
        return ast.Call(name, arguments, []) if arguments else name


def _is_shape(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "s"
