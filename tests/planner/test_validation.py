"""What the planner predicts of ranks, against what was measured on real ones."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nvlink_rows
import one_rank
import pytest

from planner.communicators import KERNELS_BYTES, PAGE_BYTES
from planner.planning import CONFIDENCE_FILE, confidence

REPORT = Path(__file__).parents[2] / "benchmarks" / "memory" / "report.py"


def load_report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_report", REPORT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


report = load_report()
ONE_RANK = report.one_rank_rows()
REAL_RUNS = report.real_runs()
NVLINK = nvlink_rows.nvlink_ranks()


def ids(rank: Any) -> str:
    return str(rank.tag)


def test_all_rows_are_there() -> None:
    assert len(report.rows("one_rank_h100.jsonl")) == 7
    assert len(report.rows("traced_ranks_h100.jsonl")) == 10
    assert len(report.rows("megatron_sft_2xh100.jsonl")) == 4
    assert len(report.rows("sft_2ranks_h200.jsonl")) == 3
    assert all(row["stack"] and row["date"] for name in FILES for row in report.rows(name))


FILES = (
    "one_rank_h100.jsonl",
    "traced_ranks_h100.jsonl",
    "megatron_sft_2xh100.jsonl",
    "sft_2ranks_h200.jsonl",
)


@pytest.mark.parametrize("rank", ONE_RANK, ids=ids)
def test_parameters_of_measured_ranks_are_exact(rank: Any) -> None:
    assert rank.parameters == rank.measured_parameters


@pytest.mark.parametrize("rank", ONE_RANK, ids=ids)
def test_memory_after_building_is_within_half_a_percent(rank: Any) -> None:
    assert abs(rank.error("after_build")) < 0.005


@pytest.mark.parametrize("rank", ONE_RANK, ids=ids)
def test_memory_of_measured_ranks_is_within_a_tenth(rank: Any) -> None:
    for quantity in ("steady", "peak_allocated", "peak_reserved", "device_used"):
        assert abs(rank.error(quantity)) < 0.10, quantity


@pytest.mark.parametrize("rank", REAL_RUNS, ids=ids)
def test_memory_of_real_runs_is_within_a_tenth_and_what_is_reserved_within_6_percent(
    rank: Any,
) -> None:
    """Every rank that logged something, with natural routing and real NCCL."""
    assert abs(rank.error("peak_reserved")) < 0.06
    for quantity in rank.measured:
        assert abs(rank.error(quantity)) < 0.10, quantity


@pytest.mark.parametrize("rank", NVLINK, ids=lambda rank: f"{rank.tag}-{rank.predicted.row.rank}")
def test_ranks_of_two_gpus_over_nvlink_are_as_predicted(rank: Any) -> None:
    """With natural routing, packs of natural documents and real NCCL."""
    assert rank.predicted.parameters.total == rank.seen["parameters"]
    assert abs(rank.error("peak_allocated")) < 0.01
    assert abs(rank.error("peak_reserved")) < 0.06
    assert abs(rank.beside_error) < 0.03


def test_what_was_fitted_of_nccl_is_the_most_of_half_of_the_layouts() -> None:
    assert 0 <= KERNELS_BYTES - nvlink_rows.kernels_of_half() < PAGE_BYTES


def test_what_nccl_takes_without_nvlink_is_within_a_fiftieth() -> None:
    """Context and communicators: of two ranks over sockets, and of a process alone."""
    for rank in report.real_ranks():
        assert nvlink_rows.over_sockets(rank.predicted.layout) == pytest.approx(
            rank.beside_reserved, rel=0.02
        )
    for measured in nvlink_rows.ONE_PROCESS_BYTES.values():
        assert nvlink_rows.alone() == pytest.approx(measured, rel=0.02)


def test_the_page_of_errors_is_up_to_date() -> None:
    """`python benchmarks/memory/report.py` writes it."""
    assert report.PAGE.read_text(encoding="utf-8") == report.page(ONE_RANK, REAL_RUNS)


def test_the_page_of_compute_seconds_is_up_to_date() -> None:
    """`python benchmarks/steptime/one_rank.py` writes it."""
    assert one_rank.PAGE.read_text(encoding="utf-8") == one_rank.page()


def test_compute_seconds_of_fresh_ranks_are_within_a_third() -> None:
    assert max(abs(rank.error) for rank in one_rank.fresh_ranks()) < 1 / 3


def test_the_confidence_of_plans_is_what_the_rows_say() -> None:
    """`python benchmarks/memory/report.py` writes it."""
    assert CONFIDENCE_FILE.read_text(encoding="utf-8") == report.confidence()


def test_every_confidence_has_a_grade_an_error_and_its_rows() -> None:
    found = confidence()

    assert found["tokens_per_second_per_gpu"] is None
    for path, each in found.items():
        if each is not None:
            grade = "measured" if path == "stages.parameters" else "calibrated"
            assert each["grade"] == grade, path
            assert 0 <= each["relative_error_p90"] < 0.25 and each["rows"] >= 16, path


def test_the_error_that_nine_of_ten_stay_within() -> None:
    ranks = [
        report.Rank("", "", 0, None, {"steady": 1 + error}, {"steady": 1.0})
        for error in (0.1, -0.2, 0.03, 0.0, 0.05, 0.01, -0.04, 0.02, 0.3, 0.0)
    ]

    assert report.p90(ranks, "steady") == (pytest.approx(0.2), 10)
