"""The search finds what looking at every layout one by one finds."""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from typing import Any

import pytest
from problems import MODELS, problem, small

from planner.balance import balanced
from planner.candidates import ASSUMED_TIE_FRACTION
from planner.constraints import LEVELS, RULES, violations
from planner.evaluate import Evaluator
from planner.host_memory import host_memory_bytes, verdict_on_host
from planner.layout import NO_RECOMPUTE, Layout
from planner.problem import Problem, Sizes, as_layout
from planner.ranking import ASSUMED_MOST_OF_A_SPLIT
from planner.search import SearchResult, recompute_ladder, search
from planner.units import GIB
from planner.verdict import Verdict, verdict, worse
from planner.workload import Placement, TunerType


def on_hosts(stated: Problem, memory_gib: float) -> Problem:
    """The problem on hosts with so much memory."""
    cluster = replace(stated.cluster, host_memory_bytes=int(memory_gib * GIB))
    return replace(stated, cluster=cluster)


PROBLEMS = {
    "all fits": small("Qwen3-30B-A3B", 4, gpus=4, memory_gib=141, global_batch_size=8),
    "some fits": small("Qwen3-30B-A3B", 8, memory_gib=36),
    "two hosts": small("Qwen3-30B-A3B", 6, nodes=2, memory_gib=30, global_batch_size=8),
    "anywhere": small(
        "Qwen3-30B-A3B",
        6,
        nodes=2,
        memory_gib=20,
        global_batch_size=4,
        placement=Placement.ANY,
        routing_imbalance=2.0,
    ),
    "dense": small("Qwen2.5-7B", 8, memory_gib=22, global_batch_size=12),
    "LoRA": small("Qwen3-30B-A3B", 8, memory_gib=20, tuner_type=TunerType.LORA),
    "MLA, MTP": small("DeepSeek-V3", 5, memory_gib=130, mtp_num_layers=1, global_batch_size=8),
    "odd sizes": small("Qwen2.5-7B", 7, gpus=6, memory_gib=24, seq_length=1002),
    "newer stack": small("Qwen3-30B-A3B", 6, memory_gib=30, stack="gpu-kit-2026-11"),
    "one micro-batch": small(
        "Qwen3-30B-A3B", 6, memory_gib=30, micro_batch_size=3, global_batch_size=12
    ),
    "full recomputation": small("Qwen3-30B-A3B", 6, memory_gib=30, recompute="full"),
    "small hosts": on_hosts(small("Qwen3-30B-A3B", 6, nodes=2, memory_gib=60), 60),
    "too small hosts": on_hosts(small("Qwen3-30B-A3B", 6, memory_gib=79), 60),
    "nothing fits": small("Qwen3-235B-A22B", 6, memory_gib=10),
}


@dataclass
class Naive:
    """What looking at every layout finds."""

    enumerated: int = 0
    legal: int = 0
    fitting: int = 0
    beyond_hosts: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    fits: list[tuple[tuple[Any, ...], Layout]] = field(default_factory=list)
    resuming: list[tuple[tuple[Any, ...], Layout]] = field(default_factory=list)
    least_over: tuple[float, Layout] | None = None


def all_sizes(stated: Problem, evaluator: Evaluator) -> list[Sizes]:
    """Every combination of sizes that keeps both identities."""
    world, layers = stated.cluster.num_gpus, stated.model.num_layers
    wanted = stated.workload.micro_batch_size
    micro_batch_sizes = [wanted] if wanted else [1, 2, 4]
    found = []
    for tp, cp, pp, ep, etp in product(range(1, world + 1), repeat=5):
        if world % (tp * cp * pp) or world % (etp * ep * pp):
            continue
        for vpp in range(1, 9):
            if vpp > 1 and (pp == 1 or layers % (pp * vpp)):
                continue
            for recompute, size in product(
                recompute_ladder(stated, layers // (pp * vpp)), micro_batch_sizes
            ):
                found.append(
                    Sizes(
                        world_size=world,
                        tp=tp,
                        cp=cp,
                        pp=pp,
                        ep=ep,
                        etp=etp,
                        vpp=vpp,
                        micro_batch_size=size,
                        recompute=recompute,
                        split=evaluator.split(pp, vpp),
                    )
                )
    return found


def look_at_all(stated: Problem) -> Naive:
    """Evaluate every layout by its terms, one by one."""
    evaluator, found = Evaluator(stated), Naive()
    usable = stated.cluster.gpu.memory_usable_bytes
    for sizes in all_sizes(stated, evaluator):
        found.enumerated += 1
        broken = violations(stated, sizes)
        if broken:
            found.rejected[broken[0].rule.id] += 1
            continue
        found.legal += 1
        layout = as_layout(stated, sizes)
        batch = evaluator.batch(layout)
        stages = batch.memory(layout.recompute)
        used = max(stage.device_used for stage in stages)
        host = host_memory_bytes(stated, layout, [batch.parameters(at) for at in range(layout.pp)])
        on_host = verdict_on_host(stated, host)
        if used > usable:
            if found.least_over is None or used < found.least_over[0]:
                found.least_over = (used, layout)
            continue
        if on_host is Verdict.EXCEEDS:
            found.beyond_hosts += 1
            continue
        found.fitting += 1
        total = round(batch.step_time(layout.recompute).total, 9)
        order = worse(verdict(used, usable), on_host).order
        found.fits.append(((order, total, *plainness(layout)), layout))
        if all(stage.device_used_resumed <= usable for stage in stages):
            found.resuming.append(found.fits[-1])
    return found


def plainness(layout: Layout) -> tuple[object, ...]:
    sizes = (layout.etp, layout.cp, layout.tp, layout.vpp, layout.pp, layout.ep)
    recompute = layout.recompute
    choice = (recompute != NO_RECOMPUTE, recompute.granularity, recompute.modules)
    return (sizes, layout.micro_batch_size, choice)


@pytest.fixture(scope="module", params=PROBLEMS)
def both(request: pytest.FixtureRequest) -> tuple[Problem, SearchResult, Naive]:
    stated = PROBLEMS[request.param]
    return stated, search(Evaluator(stated)), look_at_all(stated)


Both = tuple[Problem, SearchResult, Naive]


def test_the_search_counts_what_looking_at_all_layouts_counts(both: Both) -> None:
    _, result, naive = both

    assert result.enumerated == naive.enumerated
    assert result.legal == naive.legal
    assert result.fitting == naive.fitting
    assert result.beyond_hosts == naive.beyond_hosts
    assert {rule: each.count for rule, each in result.rejected.items()} == naive.rejected


def test_what_is_enumerated_is_legal_or_rejected(both: Both) -> None:
    _, result, _ = both
    rejected = sum(each.count for each in result.rejected.values())

    assert result.enumerated == result.legal + rejected
    assert 0 <= result.fitting <= result.legal


def best_of_grids(
    stated: Problem, found: list[tuple[tuple[Any, ...], Layout]]
) -> dict[tuple[int, ...], Layout]:
    """The best layout of every grid, those near the first with the split that is best for them."""

    def grid(layout: Layout) -> tuple[int, ...]:
        return (layout.tp, layout.cp, layout.pp, layout.ep, layout.etp)

    fits = sorted(found, key=lambda each: (grid(each[1]), each[0]))
    best = {key: next(each) for key, each in groupby(fits, key=lambda each: grid(each[1]))}
    evaluator = Evaluator(stated)
    (_, fastest, *_), _ = min(best.values(), key=lambda each: each[0], default=((0, 0.0), None))
    near = fastest * (1 + ASSUMED_MOST_OF_A_SPLIT)
    return {
        key: balanced(evaluator, layout) if order[1] <= near else layout
        for key, (order, layout) in best.items()
    }


def test_the_best_of_every_grid_is_the_best_of_all_its_layouts(both: Both) -> None:
    stated, result, naive = both
    best = best_of_grids(stated, naive.fits)
    found: dict[tuple[int, ...], Layout] = {}
    for candidate in sorted(result.ranked, key=lambda each: each.order):
        found.setdefault(candidate.grid, candidate.layout(stated))

    assert found == best
    assert len(best) <= len(result.ranked) <= len(best) + 1  # one that can go on besides


def test_the_fastest_that_can_go_on_is_ranked_and_first_if_it_is_tied(both: Both) -> None:
    """After an interruption, of those that fit as well as the first."""
    stated, result, naive = both
    if not naive.fits:
        assert result.resuming is None
        return
    evaluator = Evaluator(stated)
    order = min(key[0] for key, _ in naive.fits)
    able = best_of_grids(stated, [each for each in naive.resuming if each[0][0] == order])
    if not able:
        assert result.resuming is None
        return
    assert result.resuming is not None
    candidate = result.ranked[result.resuming - 1]
    layout = candidate.layout(stated)
    assert layout in able.values()
    assert not any(each.resumes for each in result.ranked[: result.resuming - 1])
    fastest = min(seconds_of(result, order))
    seconds = min(step_seconds(evaluator, each) for each in able.values())
    tied = seconds <= fastest * (1 + ASSUMED_TIE_FRACTION)
    assert (result.resuming == 1) == tied
    assert tied or candidate.step_seconds == pytest.approx(seconds)


def step_seconds(evaluator: Evaluator, layout: Layout) -> float:
    return evaluator.batch(layout).step_seconds(layout.recompute)


def test_the_winner_is_the_plainest_of_those_that_tie_with_the_fastest(both: Both) -> None:
    """Of those that can go on after an interruption, if any can."""
    stated, result, naive = both
    if not naive.fits:
        assert not result.ranked
        return
    order = min(key[0] for key, _ in naive.fits)
    evaluator = Evaluator(stated)
    fastest = min(
        round(evaluator.batch(layout).step_seconds(layout.recompute), 9)
        for layout in best_of_grids(stated, naive.fits).values()
        if fit(evaluator, layout) == order
    )
    winner = result.ranked[0]
    seconds = [candidate.step_seconds for candidate in result.ranked]
    ties = [
        candidate
        for candidate in result.ranked
        if candidate.verdict.order == order
        and candidate.step_seconds <= min(seconds_of(result, order)) * (1 + ASSUMED_TIE_FRACTION)
    ]

    assert winner.verdict.order == order
    assert round(min(seconds_of(result, order)), 9) == fastest
    able = [candidate for candidate in ties if candidate.resumes]
    assert winner.plainness == min(candidate.plainness for candidate in able or ties)
    assert len(seconds) == len({candidate.layout(stated) for candidate in result.ranked})


def fit(evaluator: Evaluator, layout: Layout) -> int:
    """The order of its verdict."""
    return evaluator.batch(layout).verdict(layout.recompute).order


def seconds_of(result: SearchResult, order: int) -> list[float]:
    return [each.step_seconds for each in result.ranked if each.verdict.order == order]


def test_what_fits_comes_before_what_is_tight_and_faster_before_slower(both: Both) -> None:
    """But for ties with the fastest, which come first."""
    _, result, _ = both
    rest = [each.order for each in result.ranked]
    limit = result.ranked[0].step_seconds * (1 + ASSUMED_TIE_FRACTION) if result.ranked else 0
    tied = [each for each in result.ranked if each.step_seconds <= limit]
    after = [each.order for each in result.ranked[len(tied) :]]

    assert [each.verdict.order for each in result.ranked] == sorted(order[0] for order in rest)
    assert after == sorted(after) or len(tied) == len(result.ranked)


def test_an_example_of_a_rule_breaks_it(both: Both) -> None:
    stated, result, _ = both
    for rule_id, rejection in result.rejected.items():
        assert rejection.violation.rule.id == rule_id
        assert rejection.violation in violations(stated, rejection.example)


def test_the_nearest_miss_needs_least_of_what_does_not_fit(both: Both) -> None:
    _, result, naive = both
    if naive.least_over is None:
        assert result.nearest_miss is None
    else:
        assert result.nearest_miss == naive.least_over[1]


def test_a_search_says_the_same_every_time(both: Both) -> None:
    stated, result, _ = both
    again = search(Evaluator(stated))

    assert [each.order for each in again.ranked] == [each.order for each in result.ranked]
    assert [each.layout(stated) for each in again.ranked] == [
        each.layout(stated) for each in result.ranked
    ]
    assert again.rejected == result.rejected
    assert again.nearest_miss == result.nearest_miss


def test_a_layout_takes_what_it_takes_whatever_was_evaluated_before() -> None:
    """Chunks of a stage: schedules of one grid share what does not depend on them."""
    stated = small("Qwen3-30B-A3B", 8, gpus=4, memory_gib=141, global_batch_size=8)
    evaluator = Evaluator(stated)
    layouts = [each.layout(stated) for each in search(evaluator).ranked]
    assert {layout.vpp for layout in layouts} > {1}
    for layout in layouts:
        used = evaluator.batch(layout).memory(layout.recompute)
        assert used == Evaluator(stated).batch(layout).memory(layout.recompute)


def test_problems_differ_in_what_fits() -> None:
    """So that these tests hold something: all fits, some fits, nothing fits."""
    results = {name: search(Evaluator(stated)) for name, stated in PROBLEMS.items()}
    fitting = {name: (each.fitting, each.legal) for name, each in results.items()}
    nothing, everything = fitting.pop("nothing fits"), fitting.pop("all fits")
    assert fitting.pop("too small hosts")[0] == 0 < results["small hosts"].beyond_hosts

    assert nothing[0] == 0 < nothing[1]
    assert everything[0] == everything[1] > 0
    assert all(0 < fits < legal for fits, legal in fitting.values()), fitting


def test_rules_stand_in_the_table_in_the_order_of_the_search() -> None:
    """A layout is counted under the first rule that it breaks."""
    levels = [LEVELS.index(rule.level) for rule in RULES]

    assert levels == sorted(levels)


@pytest.mark.parametrize("stack", ["ms-swift-4.6", "gpu-kit-2026-11", "ms-swift-3.12"])
@pytest.mark.parametrize("model", MODELS)
def test_choices_of_recomputation_are_legal_and_each_saves_memory(model: str, stack: str) -> None:
    """Modules that the stack refuses are left out, not the whole choice."""
    stated = problem(model, stack=stack)
    ladder = recompute_ladder(stated, stated.model.num_layers)
    evaluator = Evaluator(stated)
    sizes = Sizes(world_size=16, split=evaluator.split(1, 1))
    batch = evaluator.batch(as_layout(stated, sizes))
    used = [batch.device_used(recompute) for recompute in ladder]
    seconds = [batch.step_seconds(recompute) for recompute in ladder]

    assert {recompute.granularity for recompute in ladder} == {"none", "selective", "full"}
    assert not any(violations(stated, replace(sizes, recompute=each)) for each in ladder)
    assert max(used) == used[0] and used.count(used[0]) == 1 and min(used) == used[-1]
    assert min(seconds) == pytest.approx(seconds[0])


@pytest.mark.parametrize("wanted", ["none", "selective", "full"])
def test_a_wanted_recomputation_narrows_the_choices(wanted: str) -> None:
    every = recompute_ladder(problem(), 48)
    narrowed = recompute_ladder(problem(recompute=wanted), 48)

    assert narrowed == [each for each in every if each.granularity == wanted]


@pytest.mark.parametrize("dispatcher", ["alltoall", "allgather"])
@pytest.mark.parametrize("name", ["anywhere", "MLA, MTP", "LoRA"])
def test_what_is_said_of_a_layout_does_not_depend_on_those_before_it(
    name: str, dispatcher: str
) -> None:
    """Layouts share what does not differ between them, and nothing else."""
    stated = PROBLEMS[name]
    evaluator = Evaluator(stated)
    ranked = search(evaluator).ranked
    assert ranked
    for candidate in ranked:
        layout = replace(candidate.layout(stated), dispatcher=dispatcher)
        alone, among = Evaluator(stated).batch(layout), evaluator.batch(layout)
        assert alone.step_time(layout.recompute) == among.step_time(layout.recompute)
        assert alone.memory(layout.recompute) == among.memory(layout.recompute)
