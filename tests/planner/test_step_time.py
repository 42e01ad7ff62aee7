"""Seconds of a step: terms, categories, what is hidden, and how they move."""

from dataclasses import replace
from math import isclose
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from problems import FULL, Case, cases, problem

from planner.evaluate import Evaluator
from planner.layout import NO_RECOMPUTE, Layout, PipelineSplit, Recompute
from planner.split import even_split
from planner.step_time import CATEGORIES, StepTime


def step(case: Case) -> StepTime:
    return case.batch.step_time(case.layout.recompute)


def with_layout(case: Case, **changes: Any) -> Case:
    return Case(case.problem, replace(case.layout, **changes))


@given(cases())
def test_terms_and_categories_add_up_to_the_total(case: Case) -> None:
    time = step(case)

    assert isclose(sum(term.seconds for term in time.terms), time.total)
    assert isclose(sum(time.by_category().values()), time.total)
    assert tuple(time.by_category()) == CATEGORIES
    assert all(term.seconds >= -1e-9 and term.hidden >= 0 for term in time.terms)
    assert all(term.formula and term.category in CATEGORIES for term in time.terms)


@given(cases())
def test_communication_of_other_stages_is_told_where_it_is_more(case: Case) -> None:
    time, seen = step(case), step(case).by_category()

    assert set(time.elsewhere) <= {category for category in CATEGORIES if "exposed" in category}
    for category, (stage, seconds) in time.elsewhere.items():
        assert stage != time.slowest_stage and 0 <= stage < case.layout.pp
        assert seconds > seen[category]


def test_a_slowest_stage_without_experts_does_not_hide_that_others_exchange_them() -> None:
    stated = problem("DeepSeek-V3", gpus=256, global_batch_size=2048, seq_length=4096)
    bounds = [(0, 3), *((layer, layer + 1) for layer in range(3, 6))]
    bounds += [*((first, first + 2) for first in range(6, 60, 2)), (60, 61)]
    split = PipelineSplit(tuple((each,) for each in bounds))
    layout = Layout(world_size=256, pp=32, ep=8, split=split, global_batch_size=2048)
    time = Evaluator(stated).batch(replace(layout, recompute=FULL)).step_time(FULL)

    assert (time.slowest_stage, time.by_category()["exposed_ep_communication"]) == (0, 0.0)
    stage, seconds = time.elsewhere["exposed_ep_communication"]
    assert stage == 4 and seconds > 0.05 * time.total


@given(cases())
def test_the_fast_answer_of_a_search_is_the_total(case: Case) -> None:
    recompute = case.layout.recompute

    assert isclose(case.batch.step_seconds(recompute), step(case).total, rel_tol=1e-9)


def with_overlap(case: Case, **flags: bool) -> Case:
    """The same layout with only these of the recipe's overlaps."""
    recipe = replace(
        case.problem.recipe, **{"overlap_grad_reduce": False, "overlap_param_gather": False} | flags
    )
    return Case(replace(case.problem, recipe=recipe), case.layout)


DATA_PARALLEL = ("gradient_reduce_scatter", "parameter_all_gather")


@given(cases())
def test_what_is_hidden_stands_beside_the_total(case: Case) -> None:
    """Hiding data-parallel communication takes from the step what it adds to the hidden."""
    without = step(with_overlap(case))
    both = step(with_overlap(case, overlap_grad_reduce=True, overlap_param_gather=True))
    hidden = both.hidden()

    assert not set(without.hidden()) & set(DATA_PARALLEL)
    assert all(seconds > 0 for seconds in hidden.values())
    if case.layout.pp == 1:
        covered = sum(hidden.get(term, 0.0) for term in DATA_PARALLEL)
        assert isclose(both.total + covered, without.total)


@given(cases())
def test_reducing_gradients_behind_the_backward_pass_is_not_slower(case: Case) -> None:
    with_flag = step(with_overlap(case, overlap_grad_reduce=True))

    assert with_flag.total <= step(with_overlap(case)).total * (1 + 1e-9)


@given(cases())
def test_at_least_a_bucket_of_data_parallel_communication_is_seen(case: Case) -> None:
    """The last gradients are reduced, the first parameters gathered, with nothing beside them."""
    both = step(with_overlap(case, overlap_grad_reduce=True, overlap_param_gather=True))
    for term in both.terms:
        if term.id in DATA_PARALLEL and term.hidden:
            assert term.seconds > 0


@given(cases())
def test_groups_of_one_rank_do_not_communicate(case: Case) -> None:
    layout, spent = case.layout, step(case).by_category()

    assert (spent["exposed_tp_communication"] > 0) == (layout.tp > 1)
    assert (spent["exposed_pp_communication"] > 0) == (layout.pp > 1)
    if layout.ep * layout.etp == 1:
        assert spent["exposed_ep_communication"] == 0
    if layout.cp == 1:
        assert spent["exposed_cp_communication"] == 0
        assert "context_parallel_ring" not in step(case).hidden()
    if layout.pp == 1:
        assert abs(spent["pipeline_bubble"]) < 1e-9
    if layout.world_size == 1:
        alone = ("compute", "optimizer", "other", "pipeline_bubble")
        assert isclose(step(case).total, sum(spent[each] for each in alone), rel_tol=1e-12)


@given(cases())
def test_every_stage_computes_no_longer_than_the_slowest_says(case: Case) -> None:
    """Compute of a stage is that of its microbatches, the optimizer and gradient buffers."""
    time, batch = step(case), case.batch
    by_term = {term.id: term.seconds for term in time.terms}

    assert len(time.compute_seconds) == case.layout.pp
    assert 0 <= time.slowest_stage < case.layout.pp
    assert all(0 < seconds <= time.total * (1 + 1e-9) for seconds in time.compute_seconds)
    assert time.compute_seconds[time.slowest_stage] >= by_term["compute"]
    assert batch.num_microbatches == case.layout.num_microbatches


@given(cases(), st.integers(2, 5))
def test_more_microbatches_take_longer_and_their_terms_grow_with_them(
    case: Case, times: int
) -> None:
    """Without interleaving the pipeline is no emptier than it was."""
    size = case.layout.global_batch_size * times
    few = step(case)
    longer = with_layout(case, global_batch_size=size).with_workload(global_batch_size=size)
    many = step(longer)

    assert few.total < many.total
    if case.layout.vpp == 1:
        assert many.total <= times * few.total * (1 + 1e-9)
    if case.layout.pp == 1:
        for category in CATEGORIES[:4]:
            expected = times * few.by_category()[category]
            assert isclose(many.by_category()[category], expected, rel_tol=1e-6, abs_tol=1e-9)


@given(cases())
def test_recomputation_costs_time_and_never_saves_any(case: Case) -> None:
    none, chosen, full = (
        step(with_layout(case, recompute=recompute)).total
        for recompute in (NO_RECOMPUTE, case.layout.recompute, FULL)
    )

    assert none <= chosen * (1 + 1e-9)
    assert none <= full * (1 + 1e-9)  # the same where all of it hides communication


@given(cases())
def test_a_faster_cluster_is_not_slower(case: Case) -> None:
    cluster = case.problem.cluster
    faster = replace(
        cluster,
        nvlink_bandwidth_bytes_per_second=2 * (cluster.nvlink_bandwidth_bytes_per_second or 0),
        host_nic_bandwidths_bytes_per_second=tuple(
            2 * nic for nic in cluster.host_nic_bandwidths_bytes_per_second
        ),
        gpu=replace(cluster.gpu, bf16_flops_per_second=2 * cluster.gpu.bf16_flops_per_second),
    )

    assert step(Case(replace(case.problem, cluster=faster), case.layout)).total <= step(case).total


def evaluated(model: str, recompute: Recompute, **sizes: Any) -> StepTime:
    stated = problem(model)
    split = even_split(stated.model.num_layers, 1)
    assert split is not None
    layout = Layout(world_size=16, recompute=recompute, split=split, **sizes)
    return Evaluator(stated).batch(layout).step_time(recompute)


def test_dense_layers_of_a_sparse_model_are_not_recomputed_with_its_experts() -> None:
    """moe is of sparse layers, mlp of dense ones: DeepSeek-V3 has three of them."""
    times = {
        modules: evaluated(
            "DeepSeek-V3", Recompute(granularity="selective", modules=modules), ep=16
        ).total
        for modules in ((), ("mlp",), ("moe",), ("mlp", "moe"))
    }
    mlp, moe = times[("mlp",)] - times[()], times[("moe",)] - times[()]

    assert 0 < 5 * mlp < moe
    assert isclose(times[("mlp", "moe")] - times[()], mlp + moe)


def test_recomputing_experts_repeats_their_all_to_all_and_nothing_else() -> None:
    def communication(modules: tuple[str, ...]) -> dict[str, float]:
        recompute = Recompute(granularity="selective", modules=modules)
        spent = evaluated("Qwen3-30B-A3B", recompute, tp=2, cp=2, ep=8)
        hidden = {"hidden_cp": spent.hidden().get("context_parallel_ring", 0.0)}
        return {**spent.by_category(), **hidden}

    none, moe = communication(()), communication(("moe",))

    exposed = [each["exposed_ep_communication"] for each in (none, moe)]
    assert isclose(exposed[1], 1.5 * exposed[0], rel_tol=0.01)  # counts are gathered forward alone
    for same in ("exposed_tp_communication", "exposed_cp_communication", "hidden_cp"):
        assert moe[same] == none[same]
