"""A run: what `launch` and `convert` read. run.json is its JSON."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from planner.cluster import NETWORK, NVLINK, PCIE, SPINE, Cluster
from planner.errors import UsageError
from planner.model_spec import ModelSpec
from planner.plan import Plan, layout_to_json
from planner.recipe import Recipe
from planner.setting_table import settable
from planner.settings import Settings
from planner.site import Site
from planner.stack import Stack
from planner.swift_args import FLAG_ORDER, ArgValue
from planner.workload import Load, Task, TunerType, Workload
from planner.yaml_files import one_line, shortened

FORMAT_VERSION = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """The GPUs that the plan is for."""

    num_nodes: int
    gpus_per_node: int
    gpu_name: str
    gpu_memory_bytes: int
    host_memory_bytes: int = 0  # of a node; 0: not known
    # of a GPU, per direction; None where there is none, or a run.json of before does not say it
    inner_bytes_per_second: float | None = None  # between the GPUs of a node
    network_bytes_per_second: float | None = None  # between nodes
    network_kind: str = ""  # as Cluster has it


def machines_of(cluster: Cluster) -> Machines:
    """The machines of a cluster; each rate is of the slowest class of link that is met there."""
    rates = {name: link.bandwidth_bytes_per_second for name, link in cluster.links.items()}
    inner = [rates[name] for name in (NVLINK, PCIE) if name in rates]
    outer = [rates[name] for name in (NETWORK, SPINE) if name in rates]
    return Machines(
        num_nodes=cluster.num_nodes,
        gpus_per_node=cluster.gpus_per_node,
        gpu_name=cluster.gpu.name,
        gpu_memory_bytes=cluster.gpu.memory_usable_bytes,
        host_memory_bytes=cluster.host_memory_bytes,
        inner_bytes_per_second=min(inner, default=None),
        network_bytes_per_second=min(outer or inner, default=None),
        network_kind=cluster.network_kind,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a plan was made for, beside model, recipe, stack and machines: to predict it again."""

    topology: str  # its name, or that of its file
    workload: Workload
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Plan, recipe and site, with all that is needed to write scripts from them alone.

    `asked` is None where a run.json of before does not say it.
    """

    plan: Plan
    recipe: Recipe
    site: Site
    model: ModelSpec
    machines: Machines
    stack: Stack
    load: Load = Load.MCORE
    task: Task = Task.SFT
    asked: Asked | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that processes of the run get where a node does not set them."""
        variables = {"PYTORCH_CUDA_ALLOC_CONF": self.stack.allocator_setting, **self.site.env}
        return {name: value for name, value in variables.items() if value}

    def to_json(self) -> dict[str, Any]:
        """The run as plain values; `from_json` reads them back."""
        parts = {
            name: adapter.dump_python(getattr(self, name), mode="json")
            for name, adapter in _parts().items()
        }
        return {"format_version": FORMAT_VERSION, "plan": self.plan.to_json(), **parts}

    @classmethod
    def from_json(cls, content: object, *, origin: str) -> "Run":
        """The run that `to_json` gave; `origin` names it in messages.

        Raises UsageError: run.not_a_run.
        """
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            reason = f"it has no format_version {FORMAT_VERSION}"
            raise UsageError("run.not_a_run", path=origin, reason=reason)
        content = {"asked": None, **content}
        missing = [name for name in ("plan", *_parts()) if name not in content]
        if missing:
            reason = f"{', '.join(missing)} is missing"
            raise UsageError("run.not_a_run", path=origin, reason=reason)
        try:
            parts = {
                name: adapter.validate_json(json.dumps(content[name]), strict=True)
                for name, adapter in _parts().items()
            }
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = one_line(
                f"{error.title}: {where}: {first['msg']} ({shortened(first['input'])})"
            )
            raise UsageError("run.not_a_run", path=origin, reason=reason) from None
        try:
            plan = Plan.from_json(content["plan"])
            TypeAdapter(dict[str, ArgValue]).validate_python(plan.args, strict=True)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"plan: {type(error).__name__}: {shortened(str(error))}"
            raise UsageError("run.not_a_run", path=origin, reason=reason) from None
        run = cls(plan=plan, **parts)
        for reason, holds in _PROMISES.items():
            if not holds(run):
                raise UsageError("run.not_a_run", path=origin, reason=reason)
        return run


@cache
def _parts() -> dict[str, TypeAdapter[Any]]:
    """How each part of a run but its plan becomes JSON; made when it is first needed."""
    types: dict[str, Any] = {
        "recipe": Recipe,
        "site": Site,
        "model": ModelSpec,
        "machines": Machines,
        "stack": Stack,
        "load": Load,
        "task": Task,
        "asked": Asked | None,
    }
    return {name: TypeAdapter(type_) for name, type_ in types.items()}


def _is_a_grid(run: Run) -> bool:
    """Whether sizes are counts whose product divides the world, attention's and experts'."""
    layout = run.plan.layout
    sizes = (layout.tp, layout.cp, layout.pp, layout.vpp, layout.ep, layout.etp)
    batch = (layout.micro_batch_size, layout.global_batch_size)
    if not all(type(size) is int and size > 0 for size in (*sizes, *batch)):
        return False
    return (
        layout.world_size % (layout.tp * layout.cp * layout.pp) == 0
        and layout.world_size % (layout.etp * layout.ep * layout.pp) == 0
        and layout.split.num_stages == layout.pp
    )


def _args_are_of_layout(run: Run) -> bool:
    """Whether the flags that a layout decides have its values."""
    planned = layout_to_json(run.plan.layout)
    return all(
        planned[flag] == run.plan.args[flag] for flag in planned.keys() & run.plan.args.keys()
    )


# What scripts rely on, where a file that somebody changed could break it.
_PROMISES: dict[str, Callable[[Run], bool]] = {
    "plan.args does not say which tuner it is for": lambda run: (
        run.plan.args.get("tuner_type") in tuple(TunerType) and "no_save_optim" in run.plan.args
    ),
    "plan.args holds a flag that is not known": lambda run: all(
        flag in FLAG_ORDER or flag in settable() for flag in run.plan.args
    ),
    "the machines have not the plan's number of GPUs": lambda run: (
        run.machines.num_nodes * run.machines.gpus_per_node == run.plan.layout.world_size > 0
    ),
    "the layout's sizes do not make up the plan's number of GPUs": _is_a_grid,
    "plan.args and plan.layout contradict each other": _args_are_of_layout,
    "the model's layers contradict each other": lambda run: (
        0 < run.model.num_layers == len(run.model.moe_layers)
        and (run.model.moe is not None) == any(run.model.moe_layers)
        and {len(run.model.linear_layers), len(run.model.window_layers)}
        <= {0, run.model.num_layers}
    ),
}


def read_run(run_folder: Path) -> Run:
    """The run of a run folder.

    Raises UsageError: file.unreadable, file.not_json, run.not_a_run.
    """
    path = run_folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError("file.unreadable", path=path, reason=reason) from None
    except (ValueError, RecursionError) as error:
        raise UsageError("file.not_json", path=path, reason=one_line(error)) from None
    return Run.from_json(content, origin=str(path))
