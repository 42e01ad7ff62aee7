"""How few GPUs fit, and how long packs: what is answered fits, and the next does not."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem, small

from planner.errors import NothingFitsError
from planner.evaluate import Evaluator
from planner.inputs import LIMITS
from planner.no_fit import least_gpus
from planner.problem import Problem
from planner.reach import (
    LENGTH_STEP,
    Reach,
    fewest_gpus,
    gpu_counts,
    longest_sequence,
    search_lengths,
    try_out,
)
from planner.search import search
from planner.workload import TunerType


def quiet(_: str) -> None:
    pass


@settings(max_examples=50)
@given(st.sampled_from([1, 2, 4, 6, 8, 16]), st.integers(1, 4096))
def test_numbers_of_gpus_are_divisors_of_a_host_then_whole_hosts(host: int, most: int) -> None:
    counts = list(gpu_counts(host, most))
    gpus = [hosts * each for hosts, each in counts]
    assert gpus == sorted(set(gpus)) and gpus[0] == 1 and gpus[-1] <= most
    assert all(host % each == 0 for hosts, each in counts if hosts == 1)
    assert all(each == host for hosts, each in counts if hosts > 1)
    assert set(range(1, min(32, most // host) + 1)) <= {hosts for hosts, _ in counts} | {0, 1}
    assert all(
        larger <= smaller * 17 / 16 or larger - smaller <= host
        for smaller, larger in pairwise(gpus)
        if smaller > host
    )


@settings(max_examples=50)
@given(st.integers(0, 2**14 + 7), st.integers(1, 2**14))
def test_the_longest_of_lengths_fits_and_the_next_does_not(most_steps: int, first: int) -> None:
    """Whatever the limit is, and wherever the search begins."""
    limit = most_steps * LENGTH_STEP
    asked = []

    def fits(length: int) -> bool:
        asked.append(length)
        return length <= limit

    longest = search_lengths(fits, first * LENGTH_STEP)
    assert longest == min(limit, LIMITS["seq_length"][1])
    assert all(length % LENGTH_STEP == 0 and length > 0 for length in asked)
    if longest:
        assert longest in asked
    if longest < LIMITS["seq_length"][1]:
        assert longest + LENGTH_STEP in asked
    assert len(asked) < 40


@settings(max_examples=50)
@given(st.sets(st.integers(1, 64)), st.integers(1, 64))
def test_where_lengths_that_fit_have_holes_the_next_step_still_does_not_fit(
    steps: set[int], first: int
) -> None:
    fitting = {step * LENGTH_STEP for step in steps}
    longest = search_lengths(fitting.__contains__, first * LENGTH_STEP)
    assert longest == 0 or longest in fitting
    assert longest + LENGTH_STEP not in fitting


SMALL = small("Qwen3-30B-A3B", 4, gpus=4, memory_gib=30)


@pytest.fixture(scope="module")
def fewest() -> Reach:
    return fewest_gpus(SMALL, most=None, batch_given=False, tell=quiet)


def test_the_fewest_gpus_fit_and_none_fewer_of_those_tried(fewest: Reach) -> None:
    smaller = [trial for trial in fewest.trials if trial.num_gpus < fewest.answer.num_gpus]
    assert fewest.answer.fits and smaller and not any(trial.fits for trial in smaller)
    expected = [hosts * gpus for hosts, gpus in gpu_counts(8, fewest.answer.num_gpus)]
    assert [trial.num_gpus for trial in smaller] == expected[:-1]


@pytest.mark.slow
def test_what_is_not_searched_would_not_fit(fewest: Reach) -> None:
    skipped = [trial for trial in fewest.trials if trial.result is None]
    assert skipped
    for trial in skipped:
        assert trial.num_gpus < least_gpus(trial.problem)
        assert not search(Evaluator(trial.problem)).ranked


def test_larger_numbers_are_weighed_and_some_trial_is_on_the_front(fewest: Reach) -> None:
    larger = [trial.num_gpus for trial in fewest.trials if trial.num_gpus > fewest.answer.num_gpus]
    assert larger == [2 * fewest.answer.num_gpus, 4 * fewest.answer.num_gpus]
    front = [trial for trial in fewest.trials if fewest.on_front(trial)]
    assert front and all(trial.fits for trial in front)


@pytest.mark.slow
def test_a_batch_that_was_not_given_is_a_multiple_of_the_gpus_and_one_that_was_is_kept() -> None:
    """So that batches are legal on any number of hosts."""
    stated = small(
        "Qwen3-30B-A3B",
        4,
        memory_gib=20,
        tuner_type=TunerType.LORA,
        global_batch_size=6,
        micro_batch_size=2,
    )
    grown, kept = (
        fewest_gpus(stated, most=8, batch_given=given_one, tell=quiet)
        for given_one in (False, True)
    )
    sizes = {each.num_gpus: each.problem.workload.global_batch_size for each in grown.trials}
    assert len(sizes) > 2 and all(batch % (2 * gpus) == 0 for gpus, batch in sizes.items())
    assert {each.problem.workload.global_batch_size for each in kept.trials} == {6}


@pytest.mark.slow
def test_nothing_fits_up_to_the_most_gpus() -> None:
    with pytest.raises(NothingFitsError):
        fewest_gpus(problem("Qwen3-235B-A22B"), most=4, batch_given=False, tell=quiet)


def fits(stated: Problem, length: int) -> bool:
    workload = replace(stated.workload, seq_length=length)
    return try_out(replace(stated, workload=workload)).fits


def test_the_longest_packs_fit_and_a_step_more_does_not() -> None:
    reach = longest_sequence(SMALL, tell=quiet)
    longest = reach.answer.problem.workload.seq_length
    lengths = [trial.problem.workload.seq_length for trial in reach.trials]
    assert lengths == sorted(set(lengths)) and longest % LENGTH_STEP == 0
    assert fits(SMALL, longest) and not fits(SMALL, longest + LENGTH_STEP)


@pytest.mark.slow
def test_documents_are_no_longer_than_the_packs_that_are_tried() -> None:
    workload = replace(SMALL.workload, seq_length=2**20, mean_document_tokens=2**20)
    reach = longest_sequence(replace(SMALL, workload=workload), tell=quiet)
    assert all(
        trial.problem.workload.document_tokens <= trial.problem.workload.seq_length
        for trial in reach.trials
    )


@pytest.mark.slow
def test_no_length_fits() -> None:
    with pytest.raises(NothingFitsError):
        longest_sequence(small("Qwen3-30B-A3B", 4, gpus=1, memory_gib=40), tell=quiet)
