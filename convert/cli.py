"""`moe-convert`: runs the conversions of a run."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from planner.command import AsJson, run_app

app = typer.Typer(
    help="Converts weights between Hugging Face's and Megatron-Core's format.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[Path, typer.Argument(help="A run folder: it holds run.json.")]


@app.command()
def plan(run_folder: RunFolder, json: AsJson = False) -> None:
    """Say what each way of converting the weights takes, and which is the fastest."""
    from convert.commands import run_plan

    run_plan(run_folder, as_json=json)


@app.command("hf-to-mcore")
def hf_to_mcore(run_folder: RunFolder) -> None:
    """Convert the weights for training: runs convert_hf_to_mcore.sh."""
    _run(run_folder, "convert_hf_to_mcore.sh")


@app.command("mcore-to-hf")
def mcore_to_hf(
    run_folder: RunFolder,
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Default: the newest complete checkpoint.")
    ] = None,
) -> None:
    """Convert a checkpoint back: runs convert_mcore_to_hf.sh."""
    _run(run_folder, "convert_mcore_to_hf.sh", *([checkpoint.absolute()] if checkpoint else []))


@app.command()
def verify(
    checkpoint: Annotated[Path, typer.Argument(help="A folder of weights, or of an adapter.")],
    source: Annotated[
        Path | None, typer.Option(help="The model that it was made from, to compare with.")
    ] = None,
    trained: Annotated[
        bool, typer.Option("--trained", help="It was trained since: compare for likeness.")
    ] = False,
    adapter: Annotated[
        Path | None, typer.Option(help="The adapter that was merged into --source.")
    ] = None,
    json: AsJson = False,
) -> int:
    """Check a checkpoint from its files: whole, in its place, and what it was made from."""
    from convert.commands import run_verify

    return run_verify(checkpoint, source=source, trained=trained, adapter=adapter, as_json=json)


@app.command("first-layers")
def first_layers(
    model: Annotated[Path, typer.Argument(help="A model in Hugging Face's format.")],
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    layers: Annotated[
        int | None, typer.Option(help="How many of its layers; 2, or up to a sparse one.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a model of the first layers, to compare logits in little memory."""
    from convert.commands import run_first_layers

    run_first_layers(model, target, layers=layers, as_json=json)


def _run(run_folder: Path, script: str, *arguments: Path) -> None:
    """Becomes a script of the run folder.

    Raises UsageError: those of `read_run`, run.no_script; EnvironmentLacksError: run.no_bash.
    """
    from planner.errors import EnvironmentLacksError, UsageError
    from planner.run import read_run

    read_run(run_folder)
    path = run_folder / script
    if not path.exists():
        raise UsageError("run.no_script", script=script, path=run_folder)
    try:  # an absolute path is never taken for an option
        os.execvp("bash", ["bash", str(path.absolute()), *map(str, arguments)])
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise EnvironmentLacksError("run.no_bash", script=script, reason=reason) from None


def main() -> None:
    """The console command."""
    run_app(app, as_json="--json" in sys.argv)
