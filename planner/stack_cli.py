"""`plan stack`: the stacks that are known, and the one that an image holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.command import AsJson, plan_with, quoted, terminal_width, write_output

if TYPE_CHECKING:
    from planner.freeze import Package

app = typer.Typer(help="The software that runs a plan.", rich_markup_mode=None)


@app.command("list")
def list_command(json: AsJson = False) -> None:
    """Name the stacks that --stack knows."""
    from planner.report.json_ import as_json
    from planner.report.stack import stacks_text, stacks_to_json
    from planner.stack import known_stacks, load_stack

    stacks = [load_stack(name) for name in known_stacks()]
    write_output(
        as_json(stacks_to_json(stacks)) if json else stacks_text(stacks, width=terminal_width())
    )


@app.command("detect")
def detect_command(
    json: AsJson = False,
    freeze: Annotated[
        Path | None, typer.Option(help="Output of pip freeze or pip list, instead of this image.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write a YAML file for --stack; never over another.")
    ] = None,
) -> None:
    """Say which stack this image holds, what differs and what it can do."""
    from measure.new_file import write_new_file
    from planner.detection import check_complete, detect, unknown_versions
    from planner.report.json_ import as_json
    from planner.report.stack import detection_text, detection_to_json
    from planner.stack_draft import draft

    packages, origin = _packages(freeze)
    found = detect(packages, origin=origin)
    if output is not None:
        check_complete(found)
        write_new_file(output, draft(found))
    if json:
        written = None if output is None else str(output)
        write_output(as_json(detection_to_json(found, written=written)))
        return
    next_step = "" if unknown_versions(found) else _next_step(freeze, output)
    written = None if output is None else quoted(str(output))
    width = terminal_width()
    write_output(detection_text(found, width=width, written=written, next_step=next_step))


def _packages(freeze: Path | None) -> tuple[tuple["Package", ...], str]:
    """The packages of a list, or else of this environment, and where they were read."""
    if freeze is None:
        from measure.installed import installed_packages

        return installed_packages(), "this environment"
    from planner.freeze import parse_freeze
    from planner.yaml_files import read_text

    origin = "".join(c if c.isprintable() else "?" for c in str(freeze))
    return parse_freeze(read_text(freeze), origin=origin), origin


def _next_step(freeze: Path | None, written: Path | None) -> str:
    """What to type next: plan with the file, or write one."""
    if written is not None:
        return plan_with("--stack", written)
    given = "" if freeze is None else f" --freeze {quoted(str(freeze))}"
    return f"plan stack detect{given} --output image.yaml"
