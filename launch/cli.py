"""`moe-launch`: writes the scripts of a run again, starts it, and follows what becomes of it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from launch.jobs import BackendName
from planner.command import AsJson, run_app, write_output

app = typer.Typer(
    help="Runs what `plan --output-dir` wrote.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[Path, typer.Argument(help="A run folder: it holds run.json.")]
HostList = Annotated[
    str,
    typer.Option("--hosts", help="Plain hosts, with commas, one a node; the first is the master."),
]
ModelPath = Annotated[
    str, typer.Option(help="Refuse a run of another model folder.", envvar="MODEL_PATH")
]
Dataset = Annotated[str, typer.Option(help="Refuse a run of other data.", envvar="DATASET")]
# What a run folder that is there already must have been planned with.
Model = Annotated[str, typer.Option(help="Refuse a run of another model.")]
Gpus = Annotated[int | None, typer.Option(help="Refuse a run for another number of GPUs.")]
LoadFrom = Annotated[str, typer.Option("--load", help="Refuse a run that loads another way.")]
SiteFile = Annotated[Path | None, typer.Option(help="Refuse a run of another site file.")]
Job = Annotated[str, typer.Argument(help="A handle such as dlc://dlc1abc, or a run folder.")]


@app.command()
def render(
    run_folder: RunFolder,
    site: Annotated[
        Path | None, typer.Option(help="YAML file of another site, which the run then has.")
    ] = None,
) -> None:
    """Write the scripts of a run folder again, from its run.json."""
    from launch.run_folder import render_again

    write_output("".join(f"{run_folder / name}\n" for name in render_again(run_folder, site)))


@app.command()
def train(
    run_folder: RunFolder,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the command and stop.", envvar="DRY_RUN")
    ] = False,
    model_path: ModelPath = "",
    dataset: Dataset = "",
    model: Model = "",
    gpus: Gpus = None,
    load: LoadFrom = "",
    site: SiteFile = None,
) -> None:
    """Run this node's part of the training."""
    from launch.expected import Expected
    from launch.train import train as start

    expected = Expected(
        model_path=model_path, dataset=dataset, model=model, gpus=gpus, load=load, site=site
    )
    start(run_folder, dry_run=dry_run, expected=expected)


@app.command()
def submit(
    run_folder: RunFolder,
    backend: Annotated[
        BackendName | None, typer.Option(help="Where to; else what the site says, or the last one.")
    ] = None,
    hosts: HostList = "",
    model_path: ModelPath = "",
    dataset: Dataset = "",
    model: Model = "",
    gpus: Gpus = None,
    nodes: Annotated[int | None, typer.Option(help="Refuse a run for other nodes.")] = None,
    load: LoadFrom = "",
    site: SiteFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is sent.", envvar="DRY_RUN")
    ] = False,
    json: AsJson = False,
) -> None:
    """Start a run on all its nodes; prints a handle for status, logs and stop."""
    from launch.commands import submit as start
    from launch.commands import with_hosts
    from launch.expected import Expected, read_expected_run

    given = _split(hosts)
    chosen = BackendName.HOSTS if given and backend is None else backend
    expected = Expected(
        model_path=model_path,
        dataset=dataset,
        model=model,
        gpus=gpus,
        nodes=nodes,
        load=load,
        site=site,
    )
    run = with_hosts(read_expected_run(run_folder, expected), given)
    start(run, run_folder, chosen, yes=yes, dry_run=dry_run, as_json=json)


def _split(hosts: str) -> tuple[str, ...]:
    return tuple(filter(None, hosts.split(",")))


@app.command()
def status(job: Job, json: AsJson = False) -> None:
    """Say how far a job and each of its nodes is."""
    from launch.commands import status as show

    show(job, as_json=json)


@app.command()
def logs(
    job: Job,
    node: Annotated[int, typer.Option(min=0, help="Rank of the node; the last has the loss.")] = 0,
    lines: Annotated[int, typer.Option(min=1, help="How many, from the end.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the node ends.")] = False,
    json: AsJson = False,
) -> None:
    """Print what a node printed."""
    from launch.commands import logs as show

    show(job, node=node, lines=lines, follow=follow, as_json=json)


@app.command()
def stop(job: Job, json: AsJson = False) -> None:
    """End a job on all its nodes; what was saved stays."""
    from launch.commands import stop as end

    end(job, as_json=json)


@app.command()
def doctor(
    run_folder: RunFolder,
    hosts: HostList = "",
    online: Annotated[
        bool, typer.Option("--online", help="Ask PAI-DLC and the hosts too, by reads only.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Look for what a run would fail at, before it takes any machine."""
    from launch.commands import doctor as examine

    examine(run_folder, _split(hosts), online=online, as_json=json)


@app.command()
def watch(
    run_folder: RunFolder,
    once: Annotated[bool, typer.Option("--once", help="Say how far it is, and end.")] = False,
    intervals: Annotated[
        int, typer.Option(min=1, help="Steps that may fail to come until it says so.")
    ] = 10,
    json: AsJson = False,
) -> None:
    """Follow a run's log: progress, loss, memory and speed beside the plan's; what strays."""
    from launch.watch import watch as follow

    follow(run_folder, once=once, intervals=intervals, as_json=json)


def main() -> None:
    """The console command."""
    run_app(app, as_json="--json" in sys.argv)
