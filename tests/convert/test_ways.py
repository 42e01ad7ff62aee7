"""What a conversion takes: near what was measured, and of the model, the release and the files."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from checkpoints import write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from runs import make_run

from convert.direction import Direction
from convert.resources import power_of_two
from convert.sizes import conversion_sizes
from convert.ways import ConversionPlan, Kind, Way, conversion_plan, recommended
from planner.site import Site
from planner.units import GIB
from planner.workload import Load, TunerType

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "convert"


def load_report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_report", BENCHMARK / "report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


report = load_report()


@pytest.mark.parametrize("row", report.measured(), ids=lambda row: f"{row['gpu']}-{row['name']}")
def test_memory_is_within_15_percent_of_what_was_measured(row: dict[str, Any]) -> None:
    expected = report.predicted()[row["kind"], row["direction"]]
    assert expected.gpu / GIB == pytest.approx(row["gpu_used_gib"], rel=0.15)
    assert expected.host / GIB == pytest.approx(row["host_gib"], rel=0.15)


@pytest.mark.parametrize("row", report.later(), ids=lambda row: row["name"])
def test_memory_of_several_ranks_lora_logits_and_answers_is_within_15_percent(
    row: dict[str, Any],
) -> None:
    """But for the host in training, where torch pins copies while it tunes kernels: the page says
    how far that is off."""
    expected = report.later_prediction(row)
    assert row["status"] == 0
    assert expected.gpu / GIB == pytest.approx(row["gpu_used_gib"], rel=0.15)
    if row["kind"] != "training":
        assert expected.host / GIB == pytest.approx(row["host_gib"], rel=0.15)


def test_the_page_of_the_measurements_is_current() -> None:
    """`python benchmarks/convert/report.py` writes it."""
    assert (BENCHMARK / "README.md").read_text(encoding="utf-8") == report.page()


def way(plan: ConversionPlan, kind: Kind, direction: Direction) -> Way:
    ways = plan.there if direction is Direction.TO_MCORE else plan.back
    return next(each for each in ways if each.kind is kind)


def test_a_checkpoint_on_disk_is_measured_by_its_headers(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    run = make_run(ep=8, site=Site(model_path=str(folder), dataset=("a",)))
    found, assumed = conversion_plan(run), conversion_plan(make_run(ep=8))
    held = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert found.origin == f"headers of {folder}"
    assert 0.9 * held < found.source_bytes < held
    assert found.tensors == 87
    assert assumed.source_bytes == assumed.weights_bytes
    assert assumed.origin.startswith("config.json")


def test_a_model_that_is_not_whole_on_disk_is_not_measured_by_what_is_there(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    run = make_run(str(folder), site=Site(model_path=str(folder), dataset=("a",)))
    whole = conversion_plan(run)
    min(folder.glob("*.safetensors")).unlink()
    torn = conversion_plan(run)
    assert torn.origin == (
        f"config.json: the files at {folder} are not whole, see moe-convert verify"
    )
    assert (torn.source_bytes, torn.tensors) == (whole.source_bytes, whole.tensors)


def test_a_model_too_large_for_one_process_is_spread_over_nodes() -> None:
    run = make_run("DeepSeek-V3", num_nodes=32, pp=16, ep=16)
    plan = conversion_plan(run)
    alone = way(plan, Kind.SWIFT, Direction.TO_MCORE)
    spread = way(plan, Kind.MEGATRON, Direction.TO_MCORE)
    assert "a GPU has 80.0 GiB" in alone.obstacle
    assert (spread.num_nodes, spread.gpus_per_node, spread.obstacle) == (4, 8, "")
    assert alone.host_total > 1200 * GIB


def test_hosts_that_are_small_spread_it_farther() -> None:
    run = make_run("DeepSeek-V3", num_nodes=32, pp=16, ep=16)
    small = replace(run, machines=replace(run.machines, host_memory_bytes=400 * GIB))
    assert conversion_sizes(run).num_nodes < conversion_sizes(small).num_nodes
    assert way(conversion_plan(small), Kind.MEGATRON, Direction.TO_MCORE).host_total < 400 * GIB


@pytest.mark.parametrize("tuner_type", TunerType)
@pytest.mark.parametrize("load", Load)
def test_the_recommended_way_is_possible_and_the_fastest(tuner_type: TunerType, load: Load) -> None:
    plan = conversion_plan(make_run(ep=8, tuner_type=tuner_type, load=load))
    for ways in (plan.there, plan.back):
        best = recommended(ways)
        assert best is not None and not best.obstacle
        assert best.cost == min(each.cost for each in ways if not each.obstacle)
    merged = recommended(plan.back)
    assert merged is not None
    assert (merged.kind is Kind.MEGATRON) or tuner_type is TunerType.FULL


def test_loading_takes_more_since_megatron_core_0_18() -> None:
    """ms-swift then no longer replaces the function that puts experts' matrices together."""
    before, since = (
        way(conversion_plan(make_run(ep=8, stack=stack)), Kind.MEGATRON, Direction.TO_HF)
        for stack in ("ms-swift-4.6", "gpu-kit-2026-11")
    )
    name = "experts_put_together"
    assert since.gpu_memory_bytes[name] == 6 * before.gpu_memory_bytes[name]  # layers of a stage


@given(st.integers(1, 2**40))
def test_pinned_memory_is_given_in_powers_of_two(size: int) -> None:
    rounded = power_of_two(size)
    assert size <= rounded < 2 * size
    assert rounded & (rounded - 1) == 0
