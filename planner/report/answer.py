"""An answer: what was asked, what was found; the JSON of `plan --json` and `plan check --json`."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from planner.cluster import Assumption, Cluster
from planner.errors import PlannerError
from planner.model_spec import ModelSpec
from planner.parameters import active_parameters, model_parameters
from planner.plan import Plan, Reason
from planner.problem import Problem
from planner.report.ranking_json import point_to_json, reach_to_json, ties_to_json
from planner.search import SearchResult
from planner.ties import Ties

if TYPE_CHECKING:
    from planner.pareto import Point
    from planner.reach import Reach

FORMAT_VERSION = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What `plan` and `plan check` found; `search` and `ties` are None for `plan check`, `pareto`
    and `reach` where nobody asked for them."""

    problem: Problem
    assumptions: list[Assumption]
    plans: list[Plan]
    search: SearchResult | None = None
    search_seconds: float = 0.0
    grids_that_fit: int = 0
    ties: Ties | None = None
    pareto: "list[Point] | None" = None
    reach: "Reach | None" = None


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """The answer in the shape of the contract: bytes, seconds and plain numbers."""
    found: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "inputs": _inputs(answer.problem),
        "assumptions": [asdict(each) for each in answer.assumptions],
    }
    if answer.search is None:
        return {**found, "plan": answer.plans[0].to_json()}
    found["search"] = _search(answer.search, answer.search_seconds)
    found["plans"] = [plan.to_json() for plan in answer.plans]
    found["ties"] = ties_to_json(answer.ties) if answer.ties else None
    found["pareto"] = [point_to_json(each) for each in answer.pareto] if answer.pareto else None
    found["reach"] = reach_to_json(answer.reach) if answer.reach else None
    return found


def error_to_json(error: PlannerError) -> dict[str, Any]:
    """A failure in the shape of the contract."""
    return {
        "format_version": FORMAT_VERSION,
        "error": {
            "id": error.message_id,
            "message": error.message,
            "values": {name: _plain(value) for name, value in error.values.items()},
            "fix": error.fix,
        },
    }


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def _inputs(problem: Problem) -> dict[str, Any]:
    workload = asdict(problem.workload)
    workload["tuner_type"] = problem.workload.tuner_type.value
    workload["placement"] = problem.workload.placement.value
    workload["task"] = problem.workload.task.value
    del workload["target_modules"]  # with the settings
    stack = asdict(problem.stack)
    stack["sources"] = dict(problem.stack.sources)
    return {
        "model": _model(problem.model),
        "cluster": cluster_to_json(problem.cluster),
        "workload": workload,
        "stack": stack,
        "settings": dict(problem.settings.given),
    }


def _model(model: ModelSpec) -> dict[str, Any]:
    found = asdict(model)
    for layers in ("moe_layers", "linear_layers", "window_layers"):
        found[layers] = sum(found[layers])
    found["parameters"] = sum(model_parameters(model).values())
    found["active_parameters"] = active_parameters(model)
    return found


def cluster_to_json(cluster: Cluster) -> dict[str, Any]:
    """The cluster with what the job uses of its hosts, and what a GPU gets of each link."""
    found = asdict(cluster)
    for name in ("assumptions", "host_nvlink_domain_size", "host_nic_bandwidths_bytes_per_second"):
        del found[name]  # assumptions stand with all others
    nics = cluster.nic_bandwidths_bytes_per_second
    return {
        **found,
        "nvlink_domain_size": cluster.nvlink_domain_size,
        "nics_per_node": len(nics),
        "nic_bandwidth_bytes_per_second": min(nics),
        "links": [asdict(link) for link in cluster.links.values()],
    }


def _search(result: SearchResult, seconds: float) -> dict[str, Any]:
    return {
        "enumerated": result.enumerated,
        "legal": result.legal,
        "fitting": result.fitting,
        "beyond_hosts": result.beyond_hosts,
        "resuming": result.resuming,
        "rejected_by_rule": {
            rule: {
                "count": rejection.count,
                "example": _example(asdict(rejection.example)),
                "message": Reason(
                    rejection.violation.message_id, rejection.violation.values
                ).message,
            }
            for rule, rejection in result.rejected.items()
        },
        "seconds": seconds,
    }


def _example(sizes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: sizes[name] for name in ("tp", "cp", "pp", "vpp", "ep", "etp", "micro_batch_size")
    }
