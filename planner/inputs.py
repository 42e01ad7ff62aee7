"""From what a user typed to a `Problem`: resolved, checked, with the names of what was given."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from planner.errors import UsageError
from planner.model_files import resolve_model
from planner.problem import Problem
from planner.recipe import DEFAULT_RECIPE, load_recipe
from planner.stack import DEFAULT_STACK, load_stack
from planner.topology_files import DEFAULT_TOPOLOGY, load_topology
from planner.workload import Placement, TunerType, Workload

GPUS_OF_A_HOST = 8  # of every topology that comes with the planner


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asked for. None: not given."""

    gpus: int
    nodes: int | None = None
    model: str
    topology: str | None = None
    stack: str | None = None
    seq_length: int | None = None
    micro_batch_size: int | None = None
    global_batch_size: int | None = None
    tuner_type: TunerType | None = None
    lora_rank: int | None = None
    recompute: str | None = None
    routing_imbalance: float | None = None
    mean_document_tokens: int | None = None
    mtp_num_layers: int | None = None
    placement: Placement | None = None

    @property
    def given(self) -> frozenset[str]:
        """Names of what was given."""
        return frozenset(name for name in self.__slots__ if getattr(self, name) is not None)


def to_problem(
    request: Request,
    recipe: str = DEFAULT_RECIPE,
    download: Callable[[str], Path] | None = None,
) -> Problem:
    """The problem of a request. `download` fetches a config.json when the name is not known here.

    Raises UsageError: input.*, and those of models, topologies, stacks and recipes.
    """
    _check_numbers(request)
    topology = request.topology or DEFAULT_TOPOLOGY
    nodes = request.nodes or -(-request.gpus // GPUS_OF_A_HOST)
    if request.gpus % nodes:
        raise UsageError(
            "input.gpus_nodes",
            gpus=request.gpus,
            nodes=nodes,
            lower=request.gpus // nodes * nodes or nodes,
            higher=(request.gpus // nodes + 1) * nodes,
        )
    workload = _workload(request)
    return Problem(
        model=resolve_model(request.model, download=download),
        cluster=load_topology(topology, nodes, request.gpus // nodes),
        workload=workload,
        stack=load_stack(request.stack or DEFAULT_STACK),
        recipe=load_recipe(workload.tuner_type, recipe),
    )


def _check_numbers(request: Request) -> None:
    least = {
        "gpus": 1,
        "nodes": 1,
        "seq_length": 1,
        "micro_batch_size": 1,
        "global_batch_size": 1,
        "lora_rank": 1,
        "routing_imbalance": 1,
        "mean_document_tokens": 1,
        "mtp_num_layers": 0,
    }
    for name, bound in least.items():
        value = getattr(request, name)
        if value is not None and not bound <= value < float("inf"):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError("input.not_positive", flag=flag, least=bound, value=value)


def _workload(request: Request) -> Workload:
    names = (
        "seq_length",
        "micro_batch_size",
        "global_batch_size",
        "tuner_type",
        "lora_rank",
        "recompute",
        "routing_imbalance",
        "mean_document_tokens",
        "mtp_num_layers",
        "placement",
    )
    given = {name: getattr(request, name) for name in names}
    return Workload(**{name: value for name, value in given.items() if value is not None})
