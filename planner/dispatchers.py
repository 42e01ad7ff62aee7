"""How long token dispatchers of experts take: `data/dispatchers.yaml`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from planner.cluster import NETWORK, Cluster
from planner.collectives import Collective
from planner.layer_shape import BF16, FP32, LayerShape
from planner.placement import GroupPlacement
from planner.units import MICRO
from planner.yaml_files import StrictModel, load_yaml_model

DISPATCHERS_FILE = Path(__file__).parent / "data" / "dispatchers.yaml"

_COUNT_BYTES, _MAP_BYTES = 8, 1  # of an expert's number of tokens, and of an entry of the routing

_Fraction = Annotated[float, Field(gt=0)]
# Seconds of a collective of so many bytes in a group, by its name.
Seconds = Callable[[Collective, float, str], float]


class _Across(StrictModel):
    hosts: int
    fraction: _Fraction


class _Backend(StrictModel):
    source: str
    latency_microseconds: float
    inside: dict[str, _Fraction]
    across: Annotated[list[_Across], Field(min_length=1)]


class Elsewhere(StrictModel):
    """What other software could do for a layout, and by which flag."""

    what: str
    flag: str
    dispatcher: str
    hides_experts: bool


class _DispatchersFile(StrictModel):
    backends: dict[str, _Backend]
    elsewhere: list[Elsewhere]


@cache
def _file() -> _DispatchersFile:
    return load_yaml_model(DISPATCHERS_FILE, _DispatchersFile)


def elsewhere() -> list[Elsewhere]:
    """What other software could do."""
    return _file().elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Seconds of the exchange of one layer and microbatch: tokens to experts and back forward, and
    their gradients backward."""

    forward: float
    backward: float


def alltoall(shape: LayerShape, seconds: Seconds, etp: int, ranks: int) -> Dispatch:
    """NCCL's all-to-all there and back, each as slow as the rank that receives most; with ETP the
    received rows are gathered and reduced. So many ranks, ETP's too, share a layer's experts: the
    shape may be one of another EP.

    Beside them, counts are gathered before the dispatch and probabilities sent with it, and their
    gradients back (megatron-core 0.16.1, megatron/core/transformer/moe/token_dispatcher.py:
    MoEAlltoAllTokenDispatcher.preprocess, token_dispatch). Waiting for the counts on the host is in
    the time of launches, which was measured with it.
    """
    rows = max(shape.sent_rows, shape.routed_rows / etp)
    row_bytes = shape.hidden * BF16
    both = 2 * seconds("all_to_all", rows * row_bytes, "ep")
    both += seconds("all_gather", rows * row_bytes * etp, "etp")
    both += seconds("reduce_scatter", rows * row_bytes * etp, "etp")
    probabilities = seconds("all_to_all", rows * FP32, "ep")
    counts = seconds("all_gather", shape.experts * _COUNT_BYTES * ranks, "etp_ep")
    return Dispatch(forward=both + probabilities + counts, backward=both + probabilities)


def allgather(shape: LayerShape, seconds: Seconds, ranks: int) -> Dispatch:
    """All tokens on all of so many ranks, with map and probabilities of their routing, and a
    reduce-scatter back (token_dispatcher.py: MoEAllGatherTokenDispatcher)."""
    tokens = shape.sharded_tokens * ranks
    hidden = tokens * shape.hidden * BF16
    there = seconds("all_gather", hidden, "etp_ep")
    back = seconds("reduce_scatter", hidden, "etp_ep")
    routing = seconds("all_gather", tokens * shape.experts * (FP32 + _MAP_BYTES), "etp_ep")
    probabilities = seconds("reduce_scatter", tokens * shape.experts * FP32, "etp_ep")
    return Dispatch(forward=there + back + routing, backward=there + back + probabilities)


def flex(
    backend: str, shape: LayerShape, group: GroupPlacement, etp: int, cluster: Cluster
) -> Dispatch:
    """DeepEP's or HybridEP's kernels, as slow as the rank that receives most; nothing where experts
    are not shared."""
    if group.size == 1 or not shape.sent_rows:
        return Dispatch(forward=0.0, backward=0.0)
    found = _file().backends[backend]
    topk = shape.sent_rows / shape.sharded_tokens
    busiest = max(1.0, shape.routed_rows / etp / shape.sent_rows)
    token_bytes = shape.sharded_tokens * shape.hidden * BF16 * busiest
    hosts = group.islands_spanned
    longest = 0.0
    link = cluster.links.get(group.inside_class)
    if link is not None:
        reached = _inside(found, link.efficiency) * link.bandwidth_bytes_per_second
        longest = _others(group.size, topk) * token_bytes / reached
    if group.link_class == NETWORK:
        reached = _across(found, hosts) * group.bandwidth_bytes_per_second
        longest = max(longest, _others(hosts, topk) * token_bytes / reached)
    once = found.latency_microseconds * MICRO + group.latency_seconds + longest
    both = 2 * once * cluster.calibration.of_link(group.link_class)
    return Dispatch(forward=both, backward=both)


def _others(places: int, topk: float) -> float:
    """Places but its own that a token goes to, of so many, with uniform routing."""
    return (places - 1) * (1 - float((1 - 1 / places) ** topk))


def _inside(backend: _Backend, family: str) -> float:
    """Of a link; where the family was not measured, the least of those that were."""
    return backend.inside.get(family, min(backend.inside.values()))


def _across(backend: _Backend, hosts: int) -> float:
    """Of the NICs: the entry of the most hosts not above these."""
    fitting = [each for each in backend.across if each.hosts <= hosts] or backend.across[:1]
    return fitting[-1].fraction
