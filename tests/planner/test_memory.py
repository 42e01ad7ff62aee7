"""Memory of stages: terms, moments, and how they move with the layout and the workload."""

import json
from dataclasses import replace
from itertools import product
from math import isclose
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import FULL, Case, cases, problem, splits

from planner.evaluate import Evaluator
from planner.layout import NO_RECOMPUTE, Layout, PipelineSplit
from planner.memory import CUDA_CONTEXT_BYTES, LEVELS, StageMemory
from planner.memory_terms import TERMS
from planner.stage_shape import Moment
from planner.units import GIB
from planner.workload import TunerType

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def memory(case: Case) -> list[StageMemory]:
    return case.batch.memory(case.layout.recompute)


@given(cases())
def test_terms_at_the_peak_add_up_to_it_exactly(case: Case) -> None:
    known = {term.id: term for term in TERMS}
    for stage in memory(case):
        assert sum(stage.terms.values()) == stage.peak_allocated
        assert all(size > 0 for size in stage.terms.values())
        assert all(stage.peak_moment in known[term].moments for term in stage.terms)


@given(cases())
def test_moments_come_where_they_belong(case: Case) -> None:
    """Losses on the last stage, embeddings on the first; no stage is fullest between steps or in
    the optimizer step, at which a search therefore does not look."""
    last = case.layout.pp - 1
    for index, stage in enumerate(memory(case)):
        assert stage.peak_moment not in (Moment.BUILD, Moment.STEADY, Moment.OPTIMIZER)
        if stage.peak_moment in (Moment.LOSS, Moment.HEAD):
            assert index == last
        if stage.peak_moment is Moment.EMBEDDING:
            assert index == 0
        assert stage.peak_allocated == stage.peak_forward_backward >= stage.peak_optimizer_step
        assert 0 < stage.after_build < stage.steady <= stage.peak_optimizer_step


@given(cases())
def test_the_fast_answer_of_a_search_is_the_fullest_stage(case: Case) -> None:
    batch, recompute = case.batch, case.layout.recompute
    fullest = max(stage.device_used for stage in batch.memory(recompute))

    assert isclose(batch.device_used(recompute), fullest, rel_tol=1e-9)


@given(cases())
def test_answers_do_not_depend_on_what_was_asked_before(case: Case) -> None:
    """Views keep what they decided; a fresh evaluator says the same."""
    batch, recompute = case.batch, case.layout.recompute
    batch.device_used(NO_RECOMPUTE)
    batch.memory(FULL)
    batch.device_used(recompute)

    assert batch.memory(recompute) == memory(case)


@given(cases())
def test_device_use_is_what_is_reserved_the_context_and_communicators(case: Case) -> None:
    for stage in memory(case):
        assert stage.peak_allocated <= stage.peak_allocated_at_imbalance < stage.peak_reserved
        beside = CUDA_CONTEXT_BYTES + stage.nccl
        held = max(stage.peak_reserved, stage.saving)
        assert isclose(stage.device_used, held + beside, abs_tol=1)
        assert stage.loading < stage.peak_reserved
        assert (stage.limit_moment == "saving") == (stage.saving > stage.peak_reserved)


@given(cases())
def test_the_terms_of_the_limit_add_up_to_it(case: Case) -> None:
    """Saving may have besides what is not there at the peak."""
    for stage in memory(case):
        total = sum(stage.limit_terms.values())
        if stage.limit_moment == "saving":
            assert 0.9 * stage.saving < total <= stage.saving
        else:
            assert total == stage.peak_allocated_at_imbalance


def contexts(rows: str) -> list[float]:
    """GiB of the device beside what ranks without NCCL reserved, the least first."""
    found = []
    for line in (BENCHMARKS / rows).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "steps" in row:
            step = row["steps"][-1]
            beside = step["device_used"] - step["forward_backward"]["reserved"]
            found.append(round(beside / GIB, 2))
    return sorted(found)


def test_the_context_is_what_ranks_had_beside_what_they_reserved() -> None:
    """As it is said: the most on an H100, and more than half of the ranks on an H200 had."""
    h100 = contexts("memory/fresh_h100.jsonl")
    h200 = contexts("steptime/one_rank_h200.jsonl")
    context = round(CUDA_CONTEXT_BYTES / GIB, 2)
    assert (len(h100), h100[0], h100[-1]) == (25, 0.7, context)
    assert (len(h200), h200[0], h200[-1]) == (35, 0.82, 0.93)
    assert h200[len(h200) // 2] <= context


def assert_never_less(before: Case, after: Case) -> None:
    """Every stage needs at least as much, allocated and of the device."""
    for low, high in zip(memory(before), memory(after), strict=True):
        assert low.peak_allocated <= high.peak_allocated
        assert low.peak_allocated_at_imbalance <= high.peak_allocated_at_imbalance
        assert low.device_used <= high.device_used
        assert low.steady <= high.steady


@given(cases(), st.sampled_from([2, 3, 16]))
def test_memory_never_falls_as_sequences_grow(case: Case, times: int) -> None:
    longer = case.problem.workload.seq_length * times

    assert_never_less(case, case.with_workload(seq_length=longer))


@given(cases(), st.sampled_from([1.0, 1.5, 4.0, 8.0]))
def test_memory_never_falls_as_routing_gets_less_balanced(case: Case, imbalance: float) -> None:
    balanced = case.with_workload(routing_imbalance=1.0)
    skewed = case.with_workload(routing_imbalance=imbalance)

    assert_never_less(balanced, skewed)
    for even, uneven in zip(memory(balanced), memory(skewed), strict=True):
        assert even.peak_allocated == uneven.peak_allocated  # at imbalance 1.0 by definition
        assert even.peak_allocated == even.peak_allocated_at_imbalance


@given(cases())
def test_memory_never_falls_as_the_micro_batch_grows(case: Case) -> None:
    """With the same global batch and the pipeline full: a search relies on it."""
    layout = replace(case.layout, global_batch_size=case.layout.global_batch_size * 2)
    doubled = replace(layout, micro_batch_size=layout.micro_batch_size * 2)
    workload = replace(case.problem.workload, global_batch_size=layout.global_batch_size)
    stated = replace(case.problem, workload=workload)
    sizes = (layout.tp, layout.cp, layout.pp, layout.ep, layout.etp)
    pipeline = Evaluator(stated).pipeline(sizes, layout.split)

    if pipeline.is_full(doubled.micro_batch_size):
        assert_never_less(Case(stated, layout), Case(stated, doubled))


@given(cases())
def test_memory_never_falls_with_more_microbatches(case: Case) -> None:
    """Until the pipeline is full."""
    layout = replace(case.layout, global_batch_size=case.layout.global_batch_size * 2)
    workload = replace(case.problem.workload, global_batch_size=layout.global_batch_size)
    more = Case(replace(case.problem, workload=workload), layout)

    assert_never_less(case, more)


@given(cases())
def test_optimizer_states_of_all_ranks_are_twelve_bytes_a_trainable_parameter(case: Case) -> None:
    """fp32 weights and two moments; dense ones once per TP rank, experts once per EP and ETP."""
    layout, batch = case.layout, case.batch
    for index, stage in enumerate(batch.memory(layout.recompute)):
        held = batch.parameters(index)
        copies = layout.tp * held.trainable_dense
        # without EP experts are sharded as dense parameters are, by each rank of TP on its own
        expert_copies = layout.ep * layout.etp if layout.ep > 1 else layout.tp
        copies += expert_copies * held.trainable_expert
        ranks = layout.world_size // layout.pp
        states = stage.terms["master_weights"] + stage.terms["optimizer_moments"]

        assert isclose(states * ranks, 12 * copies, rel_tol=1e-6)


@given(cases())
def test_weights_and_gradients_are_two_and_four_bytes_a_parameter(case: Case) -> None:
    batch = case.batch
    for index, stage in enumerate(batch.memory(case.layout.recompute)):
        held = batch.parameters(index)

        assert stage.terms["weights"] == 2 * held.total
        assert stage.terms["gradients"] == 4 * held.trainable
        assert stage.after_build == (
            stage.terms["weights"] + stage.terms["gradients"] + stage.terms["master_weights"]
        )


@given(cases())
def test_full_recomputation_needs_no_more_than_none(case: Case) -> None:
    def peaks(layout: Layout) -> list[int]:
        return [stage.peak_allocated for stage in memory(Case(case.problem, layout))]

    none = peaks(replace(case.layout, recompute=NO_RECOMPUTE))
    full = peaks(replace(case.layout, recompute=FULL))

    # One layer is built again beside what is kept: a stage of a single layer gains nothing.
    for stage, (kept, recomputed) in enumerate(zip(none, full, strict=True)):
        if case.layout.split.num_layers(stage) > 4:
            assert recomputed <= kept


@given(cases(models=("Qwen3-30B-A3B", "Qwen2.5-7B")))
def test_lora_trains_less_and_needs_less(case: Case) -> None:
    layout = replace(case.layout, etp=1)
    trained = [
        Case(case.with_workload(tuner_type=tuner).problem, layout)
        for tuner in (TunerType.LORA, TunerType.FULL)
    ]
    lora, full = (each.batch.memory(layout.recompute) for each in trained)

    assert all(a.after_build < b.after_build for a, b in zip(lora, full, strict=True))


def test_terms_say_what_they_are() -> None:
    """Every term has a formula and a source, and belongs to a column and a level."""
    columns = {"weights", "grads", "optimizer", "acts", "buffers", "logits", "other"}

    assert {term.group for term in TERMS} == columns
    assert {term.level for term in TERMS} == set(LEVELS)
    assert all(term.formula and term.source and term.moments for term in TERMS)
    assert len({term.id for term in TERMS}) == len(TERMS)


@given(cases(), st.data())
def test_an_evaluator_keeps_layouts_apart(case: Case, data: st.DataObject) -> None:
    """One evaluator asked for many layouts of a grid says what a fresh one says."""
    layout, layers = case.layout, case.problem.model.num_layers
    evaluator = Evaluator(case.problem)
    for _ in range(3):
        split = data.draw(splits(layers, layout.pp, layout.vpp))
        size = data.draw(st.sampled_from([1, 2, 4]))
        other = replace(layout, split=split, micro_batch_size=size)
        evaluator.batch(other).device_used(NO_RECOMPUTE)
    batch, fresh = evaluator.batch(layout), case.batch

    assert batch.device_used(layout.recompute) == fresh.device_used(layout.recompute)
    assert batch.memory(layout.recompute) == fresh.memory(layout.recompute)
    assert batch.step_time(layout.recompute) == fresh.step_time(layout.recompute)


@pytest.mark.parametrize("stack", ["ms-swift-4.6", "gpu-kit-2026-11"])
def test_an_evaluator_keeps_grids_apart(stack: str) -> None:
    """One evaluator asked for every grid of two stages says what a fresh one says."""
    stated = problem(gpus=16, stack=stack)
    kept, split = Evaluator(stated), PipelineSplit((((0, 24),), ((24, 48),)))
    for tp, ep, etp in product((1, 2, 4, 8), repeat=3):
        if 8 % (ep * etp):
            continue
        sizes = (tp, 1, 2, ep, etp)
        batch, fresh = (each.pipeline(sizes, split).batch(1) for each in (kept, Evaluator(stated)))
        assert batch.memory(FULL) == fresh.memory(FULL), sizes
        assert batch.step_seconds(FULL) == fresh.step_seconds(FULL), sizes
