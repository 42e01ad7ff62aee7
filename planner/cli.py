"""`plan`: search and rank layouts, or evaluate the one that is named."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from planner.command import AsJson, run_app
from planner.errors import UsageError
from planner.inputs import LIMITS, Request, check_range, to_problem
from planner.models_cli import models
from planner.recipe import DEFAULT_RECIPE
from planner.stack_cli import app as stack_app
from planner.topology_cli import app as topology_app
from planner.workload import Load, Placement, Task, TunerType

if TYPE_CHECKING:
    from planner.reach import Question

Value = TypeVar("Value")

MOST_PLANS = 1000

app = typer.Typer(
    help="Find the parallel layout that trains a MoE model fastest and fits; write its scripts.",
    epilog="lint, explain, why-not, compare and bench are commands to come.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(topology_app, name="topology")
app.add_typer(stack_app, name="stack")

Gpus = Annotated[int, typer.Option(help="GPUs in all.")]
Model = Annotated[str, typer.Option(help="Bundled name, hub id, folder or config.json.")]
Nodes = Annotated[int | None, typer.Option(help="Hosts; as few as possible when not given.")]
Topology = Annotated[str | None, typer.Option(help="Name or YAML file of the hosts.")]
StackName = Annotated[str | None, typer.Option("--stack", help="Name or YAML file of software.")]
SeqLength = Annotated[int | None, typer.Option(help="Tokens of a pack.")]
GlobalBatch = Annotated[int | None, typer.Option("--global-batch-size", help="Packs of a step.")]
MicroBatch = Annotated[int | None, typer.Option("--micro-batch-size", help="Else searched.")]
Tuner = Annotated[TunerType | None, typer.Option("--tuner-type", help="What is trained.")]
LoraRank = Annotated[int | None, typer.Option(help="Rank of LoRA adapters.")]
Imbalance = Annotated[
    float | None, typer.Option("--routing-imbalance", help="Busiest expert rank over the mean.")
]
Documents = Annotated[
    int | None, typer.Option("--mean-document-tokens", help="Mean document inside a pack.")
]
Mtp = Annotated[int | None, typer.Option("--mtp-num-layers", help="MTP layers to train.")]
TaskName = Annotated[Task | None, typer.Option("--task", help="sft, or pt: go on pretraining.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An argument of megatron sft; repeatable."),
]
Place = Annotated[Placement | None, typer.Option("--placement", help="nvlink: TP and EP in it.")]
Download = Annotated[bool, typer.Option("--allow-download", help="Fetch an unknown config.json.")]


def _required(flag: str, value: Value | None) -> Value:
    """The value, or an error that names the flag: options of a group cannot be required."""
    if value is None:
        raise UsageError("input.missing", flag=flag)
    return value


# What only scripts have.
_OF_SCRIPTS = ("--site", "--model-path", "--dataset", "--load", "--pick")


def _given_options(context: typer.Context) -> list[str]:
    """The options that a user typed, in the order of the help."""
    sources = [
        (parameter.opts[0], context.get_parameter_source(parameter.name or ""))
        for parameter in context.command.params
    ]
    return [flag for flag, source in sources if source and source.name != "DEFAULT"]


def _refuse_options_before(context: typer.Context) -> None:
    """Options of a search in front of a command would be lost. Raises input.before_command."""
    for flag in _given_options(context):
        command = context.invoked_subcommand
        raise UsageError("input.before_command", flag=flag, command=command)


def _refuse_options_of_scripts(context: typer.Context) -> None:
    """Without a folder to write scripts to, what only they have is lost. Raises input.needs."""
    for flag in _given_options(context):
        if flag in _OF_SCRIPTS:
            raise UsageError("input.needs", flag=flag, needs="--output-dir")


_QUESTIONS = ("--fewest-gpus", "--longest-sequence")
# What would answer the question itself, or ask another.
_NOT_TOGETHER = (
    ("--fewest-gpus", "--nodes"),
    ("--fewest-gpus", "--longest-sequence"),
    ("--longest-sequence", "--seq-length"),
)


def _question(context: typer.Context, gpus: int | None) -> "Question | None":
    """What is asked but for the fastest layouts.

    Raises UsageError: input.not_together; input.out_of_range of `gpus`, the most for the fewest.
    """
    given = _given_options(context)
    if not any(flag in given for flag in _QUESTIONS):
        return None
    from planner.reach import Question

    check_range("--gpus", gpus, *LIMITS["gpus"])
    for flag, other in _NOT_TOGETHER:
        if flag in given and other in given:
            raise UsageError("input.not_together", flag=flag, other=other)
    return Question.FEWEST_GPUS if "--fewest-gpus" in given else Question.LONGEST_SEQUENCE


def _downloader(allowed: bool) -> Callable[[str], Path] | None:
    if not allowed:
        return None
    from measure.hub import download_config

    return download_config


@app.callback(invoke_without_command=True)
def search_command(
    context: typer.Context,
    gpus: Annotated[int | None, typer.Option(help="GPUs in all.")] = None,
    model: Annotated[str | None, typer.Option(help="Bundled name, hub id, folder or file.")] = None,
    nodes: Nodes = None,
    topology: Topology = None,
    stack: StackName = None,
    seq_length: SeqLength = None,
    micro_batch_size: MicroBatch = None,
    global_batch_size: GlobalBatch = None,
    tuner_type: Tuner = None,
    lora_rank: LoraRank = None,
    recompute: Annotated[str | None, typer.Option(help="auto, none, selective or full.")] = None,
    routing_imbalance: Imbalance = None,
    mean_document_tokens: Documents = None,
    mtp_num_layers: Mtp = None,
    placement: Place = None,
    task: TaskName = None,
    settings: Set = None,
    top: Annotated[int, typer.Option(help="Plans to show.")] = 5,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Show what less memory costs in speed.")
    ] = False,
    fewest_gpus: Annotated[
        bool, typer.Option("--fewest-gpus", help="How few GPUs; --gpus is the most.")
    ] = False,
    longest_sequence: Annotated[
        bool, typer.Option("--longest-sequence", help="How long packs still fit.")
    ] = False,
    json: AsJson = False,
    allow_download: Download = False,
    output_dir: Annotated[Path | None, typer.Option(help="Write the run folder of plan 1.")] = None,
    pick: Annotated[int, typer.Option(help="Which plan's run folder.")] = 1,
    model_path: Annotated[str, typer.Option(help="Weights, as the nodes see them.")] = "",
    dataset: Annotated[list[str] | None, typer.Option(help="Data, as the nodes see it.")] = None,
    load: Annotated[Load, typer.Option(help="Where training reads the weights.")] = Load.MCORE,
    site: Annotated[Path | None, typer.Option(help="YAML file of the site.")] = None,
    recipe: Annotated[str, typer.Option(help="Name or YAML file of the recipe.")] = DEFAULT_RECIPE,
) -> None:
    """Search all layouts, rank those that fit, and write the scripts of the first."""
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    from planner.commands import Scripts, Wanted, run_search

    if output_dir is None:
        _refuse_options_of_scripts(context)
    data = tuple(dataset or ())
    scripts = Scripts(pick, output_dir, model_path, data, load, site) if output_dir else None
    check_range("--top", top, 1, MOST_PLANS)
    wanted = Wanted(top=top, pareto=pareto, question=_question(context, gpus), most_gpus=gpus)
    request = Request(
        gpus=1 if fewest_gpus else _required("--gpus", gpus),
        nodes=nodes,
        model=_required("--model", model),
        topology=topology,
        stack=stack,
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        global_batch_size=global_batch_size,
        tuner_type=tuner_type,
        lora_rank=lora_rank,
        recompute=recompute,
        routing_imbalance=routing_imbalance,
        mean_document_tokens=mean_document_tokens,
        mtp_num_layers=mtp_num_layers,
        placement=placement,
        task=task,
        settings=tuple(settings) if settings else None,
    )
    started = time.perf_counter()
    run_search(
        to_problem(request, recipe, _downloader(allow_download)),
        request.given,
        wanted=wanted,
        as_json=json,
        scripts=scripts,
        clock=lambda: time.perf_counter() - started,
    )


@app.command()
def check(
    gpus: Gpus,
    model: Model,
    nodes: Nodes = None,
    tp: Annotated[int, typer.Option(help="tensor_model_parallel_size")] = 1,
    pp: Annotated[int, typer.Option(help="pipeline_model_parallel_size")] = 1,
    ep: Annotated[int, typer.Option(help="expert_model_parallel_size")] = 1,
    etp: Annotated[int, typer.Option(help="expert_tensor_parallel_size")] = 1,
    cp: Annotated[int, typer.Option(help="context_parallel_size")] = 1,
    vpp: Annotated[int, typer.Option(help="virtual_pipeline_model_parallel_size")] = 1,
    recompute: Annotated[
        str | None, typer.Option(help="none, selective, full, or auto: the cheapest that fits.")
    ] = None,
    recompute_modules: Annotated[
        str | None, typer.Option(help="Of selective, for example moe_act,layernorm.")
    ] = None,
    topology: Topology = None,
    stack: StackName = None,
    seq_length: SeqLength = None,
    micro_batch_size: MicroBatch = None,
    global_batch_size: GlobalBatch = None,
    tuner_type: Tuner = None,
    lora_rank: LoraRank = None,
    routing_imbalance: Imbalance = None,
    mean_document_tokens: Documents = None,
    mtp_num_layers: Mtp = None,
    placement: Place = None,
    task: TaskName = None,
    settings: Set = None,
    json: AsJson = False,
    allow_download: Download = False,
) -> None:
    """Evaluate one layout. Layers are split evenly where they divide, as Megatron-Core does."""
    from planner.commands import run_check

    if recompute_modules:
        if recompute not in (None, "selective"):
            raise UsageError(
                "input.needs", flag="--recompute-modules", needs="--recompute selective"
            )
        recompute = "selective"
    request = Request(
        gpus=gpus,
        nodes=nodes,
        model=model,
        topology=topology,
        stack=stack,
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        global_batch_size=global_batch_size,
        tuner_type=tuner_type,
        lora_rank=lora_rank,
        recompute=recompute,
        routing_imbalance=routing_imbalance,
        mean_document_tokens=mean_document_tokens,
        mtp_num_layers=mtp_num_layers,
        placement=placement,
        task=task,
        settings=tuple(settings) if settings else None,
    )
    run_check(
        to_problem(request, DEFAULT_RECIPE, _downloader(allow_download)),
        request.given,
        sizes={"tp": tp, "pp": pp, "ep": ep, "etp": etp, "cp": cp, "vpp": vpp},
        modules=tuple(recompute_modules.split(",")) if recompute_modules else None,
        as_json=json,
    )


@app.command()
def verify(
    run_folder: Annotated[Path, typer.Argument(help="A run folder: it holds run.json.")],
    stage: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Pipeline stage, more than once for more; else the fullest."),
    ] = None,
    every_stage: Annotated[
        bool, typer.Option("--every-stage", help="All stages, one after the other.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="List the largest tensors at the peak.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Train a rank of a stage of a run on this GPU; compare its memory with the plan."""
    from measure.verify.command import run_verify

    run_verify(run_folder, stages=stage or [], every=every_stage, trace=trace, as_json=json)


@app.command()
def calibrate(
    logs: Annotated[list[Path], typer.Argument(help="logging.jsonl, or what training printed.")],
    run: Annotated[
        list[Path] | None, typer.Option(help="Run folder of the logs, or one for each.")
    ] = None,
    topology: Annotated[
        str | None, typer.Option(help="Name or YAML file; the plan's when not given.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The new topology file; else it is only shown.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Compare logs of real runs with their plans; find factors that explain the difference."""
    from measure.calibrate.command import run_calibrate

    run_calibrate(logs, run or [], topology=topology, output=output, as_json=json)


app.command()(models)


def main() -> None:
    """Run the command of the command line, and end the program."""
    run_app(app, as_json="--json" in sys.argv, explain=_explain)


def _explain(option: str, known: bool, reason: str) -> UsageError | None:
    from planner.old_flags import explain_option

    return explain_option(option, known, reason)
