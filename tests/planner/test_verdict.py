"""The verdict on a plan's memory, and its odds."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from predict import design, flags_of, model_of, results
from problems import problem

from planner.layout import Layout, PipelineSplit
from planner.plan import Plan
from planner.planning import confidence
from planner.report.trust import (
    MEASURED_IMBALANCE,
    MEASURED_PACK_TOKENS,
    MEASURED_STACK,
    MEASURED_TYPES,
    MEASURED_UP_TO,
    odds,
)
from planner.verdict import MARGIN_FRACTION, Verdict, odds_of_fitting, verdict

SIZES = {
    "tp": "tensor_model_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "vpp": "virtual_pipeline_model_parallel_size",
    "ep": "expert_model_parallel_size",
    "etp": "expert_tensor_parallel_size",
    "cp": "context_parallel_size",
    "micro_batch_size": "micro_batch_size",
}


def test_the_margin_is_the_error_that_was_measured() -> None:
    measured: dict[str, Any] | None = confidence()["stages.memory_bytes.device_used"]

    assert measured is not None
    assert math.ceil(1000 * measured["relative_error_p90"]) / 1000 == MARGIN_FRACTION


@given(st.integers(2**30, 2**38), st.integers(2**30, 2**38))
def test_a_plan_fits_when_its_odds_are_19_of_20(used: int, usable: int) -> None:
    odds = odds_of_fitting(used, usable)

    assert 0 <= odds <= 1
    if verdict(used, usable) is Verdict.FITS:
        assert odds > 0.949
    elif verdict(used, usable) is Verdict.TIGHT:
        assert 0.5 <= odds < 0.951
    else:
        assert odds <= 0.5


@given(st.integers(2**30, 2**38), st.integers(2**30, 2**38), st.integers(1, 2**34))
def test_odds_never_rise_with_what_is_needed(used: int, usable: int, more: int) -> None:
    assert odds_of_fitting(used + more, usable) <= odds_of_fitting(used, usable)


def test_what_counts_as_measured_is_what_the_design_has() -> None:
    rows = design()
    largest = {
        name: max(int(flags_of(row).get(flag, 1)) for row in rows) for name, flag in SIZES.items()
    }

    assert largest == MEASURED_UP_TO
    assert max(int(flags_of(row)["max_length"]) for row in rows) == MEASURED_PACK_TOKENS
    assert max(row.expert_load for row in rows) == MEASURED_IMBALANCE
    versions = next(iter(results("design_h100.jsonl").values()))["versions"]
    assert (versions["megatron-core"], versions["transformer-engine"]) == MEASURED_STACK
    assert {model_of(row).model_type for row in rows} == set(MEASURED_TYPES)


@pytest.mark.parametrize(
    ("probability", "said"),
    [(0.0, "less than 1 in 100"), (0.004, "less than 1"), (0.006, "1 in"), (1.0, "99 in 100")],
)
def test_what_is_sure_is_said_to_be_nearly_so(probability: float, said: str) -> None:
    layout = Layout(world_size=1, split=PipelineSplit((((0, 48),),)))
    plan = Plan(layout=layout, args={}, odds_of_fitting=probability)
    assert odds(problem(gpus=1), plan).startswith(said)
