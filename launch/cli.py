"""`moe-launch`: writes the scripts of a run again, and runs this node's part."""

from pathlib import Path
from typing import Annotated

import typer

from planner.command import run_app, write_output

app = typer.Typer(
    help="Runs what `plan --output-dir` wrote.",
    epilog="submit, status, logs, stop, doctor and watch are names of commands to come.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[Path, typer.Argument(help="A run folder: it holds run.json.")]


@app.command()
def render(run_folder: RunFolder) -> None:
    """Write the scripts of a run folder again, from its run.json."""
    from launch.run_folder import render_again

    write_output("".join(f"{run_folder / name}\n" for name in render_again(run_folder)))


@app.command()
def train(
    run_folder: RunFolder,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the command and stop.", envvar="DRY_RUN")
    ] = False,
    model_path: Annotated[
        str, typer.Option(help="Refuse a run of another model folder.", envvar="MODEL_PATH")
    ] = "",
    dataset: Annotated[
        str, typer.Option(help="Refuse a run of other data.", envvar="DATASET")
    ] = "",
) -> None:
    """Run this node's part of the training."""
    from launch.train import train as start

    start(run_folder, dry_run=dry_run, model_path=model_path, dataset=dataset)


def main() -> None:
    """The console command."""
    run_app(app)
