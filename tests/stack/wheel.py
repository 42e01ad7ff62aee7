"""The arguments of an ms-swift release, read from its source without importing it.

The parser of 3.12 cannot run without a network, and no two releases can stand side by side; their
argument classes are in their wheels all the same.
"""

import ast
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

WHEELS = Path(__file__).parent.parent.parent / ".stacks" / "wheels"

ARGUMENT_CLASSES = {
    "megatron sft": "MegatronSftArguments",
    "megatron export": "MegatronExportArguments",
    "swift export": "ExportArguments",
    "swift infer": "InferArguments",
}
OLD_CLASSES = {"megatron sft": "MegatronTrainArguments"}  # of 3.12
BOOLEANS = ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0")

Classes = Mapping[str, ast.ClassDef]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """An argument: the type of its words ("bool", "int", "float", "str") and which it takes."""

    type: str
    many: bool
    choices: frozenset[str]  # empty: any
    default: Any  # the source text in an ast.expr where it is not a literal

    def refuses(self, words: list[str]) -> str | None:
        """Return why these words cannot be its value; None: they can."""
        if len(words) != 1 and not self.many:
            return f"takes one value, not {words}"
        if self.choices:
            strange = [word for word in words if word not in self.choices]
            return f"{strange} are not among {sorted(self.choices)}" if strange else None
        if self.type == "bool":
            strange = [word for word in words if word not in BOOLEANS]
            return f"{strange} are not booleans" if strange else None
        try:
            [{"int": int, "float": float, "str": str}[self.type](word) for word in words]
        except ValueError as error:
            return str(error)
        return None


@cache
def fields_of(release: str, command: str) -> Mapping[str, Field]:
    """Return the arguments of "megatron sft", "megatron export" or "swift export" of a release.

    "megatron" are those of both its commands.
    """
    if command == "megatron":
        return {**fields_of(release, "megatron export"), **fields_of(release, "megatron sft")}
    classes = classes_of_wheel(wheel(release))
    old = OLD_CLASSES.get(command, "")
    name = old if old in classes else ARGUMENT_CLASSES[command]
    return wheel_fields(classes, name)


@cache
def wheel(release: str) -> Path:
    """Return the wheel of a release such as "3.12"."""
    found = sorted(WHEELS.glob(f"ms_swift-{release}.*.whl"))
    if not found:
        raise FileNotFoundError(f"no wheel of ms-swift {release} in {WHEELS}: run `make stacks`")
    return found[-1]


REQUIREMENT = re.compile(r"Requires-Dist: ([\w.-]+)([<>=][^;\s]*)(?:; extra == .megatron.)?$")


def requirements(release: str) -> dict[str, set[str]]:
    """Return what a release and its extra for Megatron ask: {"peft": {"<0.21", ">=0.11"}}."""
    with zipfile.ZipFile(wheel(release)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(name).decode("utf-8").splitlines()
    found: dict[str, set[str]] = {}
    for asked in filter(None, map(REQUIREMENT.match, lines)):
        found.setdefault(asked[1], set()).update(asked[2].split(","))
    return found


@cache
def megatron_core(version: str) -> Path:
    """Return the wheel of a megatron-core such as "0.17.1"."""
    found = sorted(WHEELS.glob(f"megatron_core-{version}-*.whl"))
    if not found:
        raise FileNotFoundError(f"no wheel of megatron-core {version}: run `make stacks`")
    return found[-1]


@cache
def classes_of_wheel(path: Path) -> Classes:
    """Return the classes in the argument modules of a wheel."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if _holds_arguments(name)]
        return _classes(archive.read(name).decode("utf-8") for name in names)


def classes_of_package(folder: Path) -> Classes:
    """Return the classes in the argument modules of an installed package."""
    paths = (path for path in folder.rglob("*.py") if _holds_arguments(str(path)))
    return _classes(path.read_text("utf-8") for path in paths)


def wheel_fields(classes: Classes, class_name: str) -> dict[str, Field]:
    """Return the fields of a dataclass and of its bases, later ones over earlier ones."""
    definition = classes.get(class_name)
    if definition is None:
        return {}
    fields: dict[str, Field] = {}
    for base in reversed(definition.bases):
        fields |= wheel_fields(classes, ast.unparse(base))
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign):
            fields[ast.unparse(statement.target)] = _field(statement)
    return fields


def _holds_arguments(path: str) -> bool:
    """Whether it is an argument module, or has classes that arguments are made of."""
    return ("argument" in path or "args_mixin" in path) and path.endswith(".py")


def _classes(sources: Iterable[str]) -> Classes:
    nodes = (node for source in sources for node in ast.parse(source).body)
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def _field(statement: ast.AnnAssign) -> Field:
    """Read an annotation as transformers' HfArgumentParser does."""
    names = {node.id for node in ast.walk(statement.annotation) if isinstance(node, ast.Name)}
    literals = [
        node.slice
        for node in ast.walk(statement.annotation)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
    ]
    choices = [ast.literal_eval(literal) for literal in literals]
    return Field(
        type=next((name for name in ("str", "bool", "int", "float") if name in names), "str"),
        many=ast.unparse(statement.annotation)
        .lower()
        .removeprefix("optional[")
        .startswith("list["),
        choices=frozenset(
            str(choice)
            for group in choices
            for choice in (group if isinstance(group, tuple) else (group,))
        ),
        default=_default(statement.value),
    )


def _default(value: ast.expr | None) -> Any:
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        keywords = {keyword.arg: keyword.value for keyword in value.keywords}
        factory = keywords.get("default_factory")
        if factory is not None:
            return {"list": [], "dict": {}}.get(ast.unparse(factory), factory)
        value = keywords.get("default")
    try:
        return ast.literal_eval(value) if value is not None else None
    except ValueError:
        return value
