"""Fit as the memory of hosts decides it, and what is said where it does not do."""

from dataclasses import replace

import pytest
from hypothesis import given
from problems import Case, cases, problem

from planner.cluster import HOST_MEMORY, Assumption
from planner.evaluate import Evaluator
from planner.host_memory import host_memory_bytes, verdict_on_host
from planner.layout import Layout, Recompute
from planner.no_fit import nothing_found
from planner.plan import Plan
from planner.planning import make_plan
from planner.problem import Problem
from planner.report.trust import odds
from planner.search import search
from planner.split import even_split
from planner.topology_files import load_topology
from planner.units import GIB
from planner.verdict import Verdict
from planner.workload import TunerType

ASSUMED = Assumption(id=HOST_MEMORY, value=1, unit="bytes", source="nobody knows")


def on_hosts(stated: Problem, gib: float, *, assumed: bool = False) -> Problem:
    """The problem on hosts with so much memory, known or assumed."""
    assumptions = (ASSUMED,) if assumed else ()
    cluster = replace(
        stated.cluster, host_memory_bytes=int(gib * GIB), assumptions=assumptions, name="mine"
    )
    return replace(stated, cluster=cluster)


def plan_of(stated: Problem) -> Plan:
    split = even_split(stated.model.num_layers, 2)
    assert split is not None
    layout = Layout(
        world_size=16,
        pp=2,
        ep=8,
        global_batch_size=16,
        recompute=Recompute(granularity="full", method="uniform", num_layers=1),
        split=split,
    )
    return make_plan(Evaluator(stated), layout)


def lacks(plan: Plan) -> str:
    assert plan.lacks is not None
    return plan.lacks.message


def test_a_checkpoint_that_exceeds_its_hosts_does_not_fit() -> None:
    """The reason says how much, and what was tried and takes less."""
    plan = plan_of(on_hosts(problem(), 256))

    assert plan.verdict == "exceeds"
    assert plan.reasons[0] is plan.lacks
    assert "saving takes 330.6 GiB of a node's memory, roughly, which has 256.0" in lacks(plan)
    assert "--set no_save_optim=true takes 7" in lacks(plan)
    assert "3 nodes share it out" in lacks(plan)
    assert "fits its GPUs, not its hosts" in odds(problem(), plan)


def test_what_is_advised_fits() -> None:
    lean = plan_of(on_hosts(problem(settings=("no_save_optim=true",)), 256))

    assert (lean.verdict, lean.lacks) == ("fits", None)
    assert lean.resumes == "no"


def test_the_memory_of_hosts_that_is_only_assumed_makes_a_plan_tight() -> None:
    """Nobody can know that it is exceeded; the plan says whose number it is and how to give it."""
    plan = plan_of(on_hosts(problem(), 256, assumed=True))

    assert plan.verdict == "tight"
    assert "that it fits its GPUs, if not its hosts as assumed" in odds(problem(), plan)
    assert "mine assumes 256.0: say what yours has, by host_memory_gib" in lacks(plan)


def test_hosts_that_are_large_enough_are_not_spoken_of() -> None:
    plan = plan_of(problem())

    assert (plan.verdict, plan.lacks) == ("fits", None)
    assert "that it fits, if" in odds(problem(), plan)


def test_weights_that_exceed_their_hosts_are_to_be_smaller() -> None:
    plan = plan_of(on_hosts(problem(tuner_type=TunerType.LORA), 40))

    assert plan.verdict == "exceeds"
    assert "loading takes 7" in lacks(plan)
    assert "more tp, pp or ep" in lacks(plan)


def test_hosts_too_small_for_processes_are_to_be_larger() -> None:
    assert "take nodes with more memory" in lacks(plan_of(on_hosts(problem(), 30)))


def test_where_no_checkpoint_fits_its_hosts_that_is_the_proof() -> None:
    stated = on_hosts(problem(), 256)
    result = search(Evaluator(stated))
    assert (result.fitting, result.ranked) == (0, [])
    assert result.beyond_hosts > 4000
    error = nothing_found(stated, result)

    because, ways_out = str(error.values["because"]), str(error.values["ways_out"])
    assert "330.6 GiB of it, roughly, for saving, and a node has 256.0 GiB" in because
    assert "--set no_save_optim=true fits" in ways_out
    assert "--gpus 24 --nodes 3" in ways_out


def test_topologies_tell_known_memory_from_assumed() -> None:
    assert not load_topology("h100-8x-ib", 1).assumes_host_memory
    assert load_topology("b300-8x-ib", 1).assumes_host_memory


@given(cases())
def test_ranks_that_have_the_same_write_it_once(case: Case) -> None:
    """All nodes together save no more than each stage's whole once, and its processes."""
    layout, stated = case.layout, case.problem
    stages = [case.batch.parameters(stage) for stage in range(layout.pp)]
    host = host_memory_bytes(stated, layout, stages)
    lone = replace(stated, recipe=replace(stated.recipe, no_save_optim=True))
    lean = host_memory_bytes(lone, layout, stages)

    assert host["loading"] == lean["loading"] > host["training"]
    assert host["training"] < lean["saving"] <= host["saving"]
    if stated.workload.tuner_type is TunerType.FULL:
        largest = max(stages, key=lambda stage: stage.total)
        written = (lean["saving"] - lean["training"]) / stated.cluster.gpus_per_node / 3
        assert written * layout.dp * layout.cp >= largest.dense * 0.999
        assert written <= largest.total


@pytest.mark.parametrize(
    ("gib", "assumed", "found"),
    [
        (2048, False, Verdict.FITS),
        (1, False, Verdict.EXCEEDS),
        (1, True, Verdict.TIGHT),
        (2048, True, Verdict.FITS),
    ],
)
def test_the_verdict_on_hosts(gib: float, assumed: bool, found: Verdict) -> None:
    stated = on_hosts(problem(), gib, assumed=assumed)

    assert verdict_on_host(stated, {"loading": 3 * GIB, "saving": 2 * GIB}) is found
