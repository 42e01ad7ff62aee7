"""Token dispatchers beside what was published of them, and what hides them."""

from dataclasses import replace
from typing import Any

import pytest
from problems import problem

from planner.cluster import Cluster
from planner.dispatchers import flex
from planner.evaluate import Evaluator
from planner.grids import Grids
from planner.layer_shape import LayerShape, layer_shape
from planner.layout import Layout
from planner.model_files import resolve_model
from planner.placement import GroupPlacement, place
from planner.split import even_split
from planner.step_time import Overlap, StepTime
from planner.topology_files import load_topology


def exchange(topology: str, nodes: int) -> tuple[LayerShape, GroupPlacement, Cluster]:
    """4096 tokens of 7168 to 8 of 256 experts, on all GPUs."""
    model = resolve_model("DeepSeek-V3")
    cluster = load_topology(topology, nodes)
    ranks = cluster.num_gpus
    shape = layer_shape(
        model,
        kind=model.layer_kinds[-1],
        tokens=4096,
        tp=1,
        ep=ranks,
        etp=1,
        imbalance=1.0,
        lora=False,
    )
    group = place(cluster, Grids(world_size=ranks, ep=ranks))["etp_ep"]
    return shape, group, cluster


@pytest.mark.parametrize(
    ("topology", "nodes", "dispatch", "combine"),
    [
        ("h100-8x-ib", 1, 661e-6, 624e-6),
        ("h100-8x-ib", 2, 1485e-6, 1688e-6),
        ("h100-8x-ib", 4, 3064e-6, 3088e-6),
        ("h100-8x-ib", 8, 4626e-6, 4398e-6),
        ("gb200-nvl72", 2, 391e-6, 353e-6),
        ("gb200-nvl72", 4, 578e-6, 527e-6),
        ("gb200-nvl72", 8, 612e-6, 646e-6),
        ("gb200-nvl72", 16, 675e-6, 744e-6),
    ],
)
def test_hybridep_takes_what_was_published(
    topology: str, nodes: int, dispatch: float, combine: float
) -> None:
    """MCore MoE report (arXiv 2603.07685), Table 7."""
    seconds = flex("hybridep", *exchange(topology, nodes)[:2], 1, exchange(topology, nodes)[2])

    assert seconds.forward == pytest.approx(dispatch + combine, rel=0.2)


@pytest.mark.parametrize(("nodes", "gbytes_per_second"), [(4, 57.5), (8, 50.5)])
def test_deepep_between_hosts_is_near_what_was_published(
    nodes: int, gbytes_per_second: float
) -> None:
    """DeepEP README: bytes of tokens to at most 4 groups of hosts, with the own host."""
    shape, group, cluster = exchange("h100-8x-ib", nodes)
    hosts = 4 * (1 - 0.75**8)
    measured = 2 * hosts * 4096 * 7168 * 2 / (gbytes_per_second * 1e9)

    assert flex("deepep", shape, group, 1, cluster).forward == pytest.approx(measured, rel=0.1)


def time_of(dispatcher: str = "alltoall", **overlap: bool) -> StepTime:
    """Qwen3-30B-A3B on two hosts whose experts are shared by all ranks."""
    return timed("Qwen3-30B-A3B", dispatcher, Overlap(**overlap), ep=16)


def timed(model: str, dispatcher: str, overlap: Overlap, **sizes: Any) -> StepTime:
    stated = problem(model)
    split = even_split(stated.model.num_layers, 1)
    assert split is not None
    layout = Layout(world_size=16, split=split, dispatcher=dispatcher, **sizes)
    return Evaluator(stated, overlap).batch(layout).step_time(layout.recompute)


def test_sending_a_token_once_a_host_is_faster_than_once_an_expert() -> None:
    exposed = {
        each: time_of(each).by_category()["exposed_ep_communication"]
        for each in ("alltoall", "allgather", "deepep", "hybridep")
    }

    assert exposed["hybridep"] < exposed["deepep"] < exposed["alltoall"]
    assert exposed["allgather"] > exposed["deepep"]


def test_dispatchers_change_nothing_but_the_exchange_of_experts() -> None:
    plain, other = time_of("alltoall").by_category(), time_of("hybridep").by_category()
    changed = {name for name in plain if abs(plain[name] - other[name]) > 1e-9}

    assert changed == {"exposed_ep_communication"}


@pytest.mark.parametrize(
    ("flag", "term", "model", "sizes"),
    [
        ("expert_parallel", "expert_all_to_all", "Qwen3-30B-A3B", {"ep": 16}),
        ("shared_expert", "expert_all_to_all", "DeepSeek-V3", {"ep": 16}),
        ("tp_comm", "sequence_parallel_collectives", "Qwen3-30B-A3B", {"tp": 4, "ep": 4}),
    ],
)
def test_what_a_flag_hides_is_named_and_no_longer_seen(
    flag: str, term: str, model: str, sizes: dict[str, int]
) -> None:
    without = timed(model, "alltoall", Overlap(), **sizes)
    hiding = timed(model, "alltoall", replace(Overlap(), **{flag: True}), **sizes)

    assert term not in without.hidden()
    assert hiding.hidden()[term] > 0
    assert hiding.total + hiding.hidden()[term] == pytest.approx(without.total)


def test_shared_experts_run_beside_no_exchange_but_the_all_to_all() -> None:
    hiding = timed("DeepSeek-V3", "deepep", Overlap(shared_expert=True), ep=16)

    assert "expert_all_to_all" not in hiding.hidden()
