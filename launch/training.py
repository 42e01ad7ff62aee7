"""train.sh and train.yaml."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch.arguments import Folders, train_args
from launch.resume import resume_sh, weights_check_sh
from launch.text import comment, fill, shell_words, yaml_value
from planner.dialects import Dialect, load_dialect, translate, words
from planner.run import Run
from planner.swift_args import NOTES, ArgValue, sections

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class _Argument:
    """A flag of the release, its value, and why it has it (may be empty)."""

    flag: str
    value: ArgValue
    note: str


def title(run: Run) -> str:
    """What is trained where, as one printable line."""
    machines = run.machines
    nodes = "1 node" if machines.num_nodes == 1 else f"{machines.num_nodes} nodes"
    where = f"{nodes} of {machines.gpus_per_node} {machines.gpu_name}"
    return comment(f"{run.model.name} ({run.plan.args['tuner_type']}) on {where}")


def train_sh(run: Run) -> str:
    """The script that every node runs."""
    dialect = load_dialect(run.stack.dialect)
    return fill(
        TEMPLATES / "train.sh",
        title=title(run),
        task=run.task,
        world_size=run.plan.layout.world_size,
        gpus_per_node=run.machines.gpus_per_node,
        flags_note=(
            "Flags that follow the name are added at the end and win over train.yaml."
            if dialect.arguments_file == "first"
            else "Flags that follow the name are added at the end and win."
        ),
        arguments=_arguments(run, dialect),
        resume=resume_sh(run),
        checks=weights_check_sh(run),
    )


def node_env_sh(run: Run) -> str:
    """What every script sources: the variables of its node, and defaults of the stack and site."""
    rows = [["set_default", name, value] for name, value in run.environment.items()]
    cache = shlex.quote(Folders(run.site.workspace).cache) if run.site.workspace else '"$PWD/cache"'
    lines = [*map(shell_words, rows), f"set_default MODELSCOPE_CACHE {cache}"]
    return fill(TEMPLATES / "node_env.sh", defaults="\n".join(lines))


def train_yaml(run: Run) -> str | None:
    """The arguments as the file that `megatron sft` reads; None where the release reads none."""
    dialect = load_dialect(run.stack.dialect)
    if dialect.arguments_file == "none":
        return None
    lines = [f"# {title(run)}", f"# Read by train.sh: megatron {run.task} train.yaml"]
    for heading, arguments in _sections(run, dialect):
        lines += ["", f"# {heading}"]
        for argument in arguments:
            note = f"  # {argument.note}" if argument.note else ""
            lines.append(f"{argument.flag}: {yaml_value(argument.value)}{note}")
    return "\n".join(lines) + "\n"


def _arguments(run: Run, dialect: Dialect) -> str:
    """The words after the command in train.sh, a line each."""
    if dialect.arguments_file == "first":
        return "  train.yaml"
    lines = []
    for heading, arguments in _sections(run, dialect):
        lines.append(f"  # {heading}")
        for argument in arguments:
            note = f" # {argument.note}" if argument.note else ""
            value = shell_words(words(argument.value))
            lines.append(f"  --{argument.flag} {value}{note}")
    return "\n".join(lines)


def _sections(run: Run, dialect: Dialect) -> Iterator[tuple[str, list[_Argument]]]:
    """Headings with the release's flags; empty ones are left out."""
    args = train_args(run)
    for heading, flags in sections(args).items():
        arguments = []
        for canonical in flags:
            translated = translate({canonical: args[canonical]}, dialect)
            note = run.recipe.reasons.get(canonical) or NOTES.get(canonical, "")
            arguments += [
                _Argument(flag, value, comment(note)) for flag, value in translated.items()
            ]
        if arguments:
            yield heading, arguments
