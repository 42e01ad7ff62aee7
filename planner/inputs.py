"""From what a user typed to a `Problem`: resolved, checked, with the names of what was given."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from planner.errors import UsageError
from planner.model_files import resolve_model
from planner.problem import Problem
from planner.recipe import DEFAULT_RECIPE, load_recipe
from planner.setting_conflicts import check_settings
from planner.settings import read_settings, with_settings
from planner.stack import DEFAULT_STACK, load_stack
from planner.topology_files import DEFAULT_TOPOLOGY, host_gpus, load_topology
from planner.workload import ASSUMED_ROUTING_IMBALANCE, Placement, Task, TunerType, Workload

# The least and the most of what was asked for: beyond it is a slip of the hand, not a job.
LIMITS: dict[str, tuple[int, int]] = {
    "gpus": (1, 2**14),
    "nodes": (1, 2**14),
    "seq_length": (1, 2**24),
    "micro_batch_size": (1, 2**20),
    "global_batch_size": (1, 2**20),
    "lora_rank": (1, 2**13),
    "routing_imbalance": (1, 2**10),
    "mtp_num_layers": (0, 2**6),
}


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
    task: Task | None = None
    settings: tuple[str, ...] | None = None  # NAME=VALUE

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

    Raises UsageError: input.*, setting.*, model.unplanned_attention, and those of models,
    topologies, stacks and recipes.
    """
    for name, (least, most) in LIMITS.items():
        check_range(f"--{name.replace('_', '-')}", getattr(request, name), least, most)
    topology = request.topology or DEFAULT_TOPOLOGY
    nodes = request.nodes or -(-request.gpus // host_gpus(topology))
    if request.gpus % nodes:
        raise _uneven(request.gpus, nodes, host_gpus(topology))
    settings = read_settings(request.settings or ())
    workload = replace(_workload(request), target_modules=settings.target_modules)
    model = resolve_model(request.model, download=download)
    if model.unplanned_attention is not None:
        raise UsageError(
            "model.unplanned_attention", model=model.name, attention=model.unplanned_attention
        )
    if request.routing_imbalance is None and model.is_moe:
        workload = replace(workload, routing_imbalance=ASSUMED_ROUTING_IMBALANCE)
    problem = Problem(
        model=model,
        cluster=load_topology(topology, nodes, request.gpus // nodes),
        workload=workload,
        stack=load_stack(request.stack or DEFAULT_STACK),
        recipe=with_settings(load_recipe(workload.tuner_type, recipe), settings),
        settings=settings,
    )
    if settings.given:
        check_settings(problem)
    return problem


def check_range(flag: str, value: float | None, least: int, most: int) -> None:
    """Refuse a number that is given and out of range. Raises UsageError: input.out_of_range."""
    if value is None or least <= value <= most:
        return
    nearest = most if value > most else least  # least for NaN too
    raise UsageError(
        "input.out_of_range", flag=flag, least=least, most=most, value=value, nearest=nearest
    )


def check_mtp(problem: Problem) -> None:
    """Refuse to search with more MTP layers than the checkpoint has.

    Raises UsageError: input.mtp_num_layers.
    """
    wanted, available = problem.workload.mtp_num_layers, problem.model.mtp_num_layers
    if wanted > available:
        raise UsageError(
            "input.mtp_num_layers", wanted=wanted, available=available, model=problem.model.name
        )


def _uneven(gpus: int, nodes: int, of_a_host: int) -> UsageError:
    """GPUs that do not divide over nodes: the nearest numbers of both that do."""
    totals = {total for total in (gpus // nodes * nodes, (gpus // nodes + 1) * nodes) if total}
    fitting = [n for n in range(1, gpus + 1) if gpus % n == 0 and gpus // n <= of_a_host]
    return UsageError(
        "input.gpus_nodes",
        gpus=gpus,
        nodes=nodes,
        totals=" or ".join(map(str, sorted(totals))),
        nearest=min(fitting, key=lambda n: abs(n - nodes)),
    )


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
        "task",
    )
    given = {name: getattr(request, name) for name in names}
    workload = Workload(**{name: value for name, value in given.items() if value is not None})
    document, pack = workload.mean_document_tokens, workload.seq_length
    check_range("--mean-document-tokens", document, 1, pack)
    if request.lora_rank is not None and workload.tuner_type is not TunerType.LORA:
        raise UsageError("input.needs", flag="--lora-rank", needs="--tuner-type lora")
    return workload
