"""Topology files with factors that measured runs have on what is predicted."""

from dataclasses import replace
from pathlib import Path

import pytest

from planner.cluster import Calibration
from planner.collectives import collective_seconds
from planner.compute import Compute
from planner.efficiency import rates
from planner.errors import UsageError
from planner.grids import Grids
from planner.model_files import resolve_model
from planner.placement import place
from planner.topology_files import load_topology

CALIBRATED = """\
like: h100-8x-ib
calibration:
  gemm: {value: 1.25, source: measured}
  network: {value: 2.0, source: measured}
"""


def test_factors_of_a_file_make_predictions_longer_and_nothing_else(tmp_path: Path) -> None:
    """Each factor on what it names; a file that is like this one has them too."""
    path = tmp_path / "mine.yaml"
    path.write_text(CALIBRATED)
    deeper = tmp_path / "deeper"
    deeper.mkdir()
    (deeper / "theirs.yaml").write_text(
        "like: ../mine.yaml\ncalibration:\n  gemm: {value: 1.5, source: measured}\n"
    )
    plain, mine = load_topology("h100-8x-ib", 2), load_topology(str(path), 2)
    theirs = load_topology(str(deeper / "theirs.yaml"), 2)
    assert mine.calibration == Calibration(gemm=1.25, network=2.0)
    assert theirs.calibration == Calibration(gemm=1.5, network=2.0)
    assert replace(mine, name=plain.name, calibration=plain.calibration).links == plain.links
    fast, slow = rates(plain.gpu, plain.calibration), rates(mine.gpu, mine.calibration)
    assert slow.gemm == pytest.approx(fast.gemm / 1.25)
    assert slow.memory == fast.memory
    for size, factor in ((8, 1.0), (16, 2.0)):
        group = place(plain, Grids(world_size=16, tp=1, cp=1, pp=1, ep=size, etp=1))["ep"]
        seconds = [collective_seconds("all_to_all", 2**28, group, it) for it in (plain, mine)]
        assert seconds[1] == pytest.approx(factor * seconds[0])


def test_launches_take_as_much_longer_as_a_factor_says() -> None:
    gpu, model = load_topology("h100-8x-ib", 1).gpu, resolve_model("Qwen3-8B")
    once, twice = (
        Compute(model, rates(gpu, calibration), fused_gradients=True).head(4096, 1)
        for calibration in (Calibration(), Calibration(launch=2.0))
    )
    assert twice.backward_launch == pytest.approx(2 * once.backward_launch)
    assert twice.backward == once.backward


@pytest.mark.parametrize("factor", ["0", "-1", "21", ".nan", "'1.2'"])
def test_a_factor_that_is_none_is_refused(tmp_path: Path, factor: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(CALIBRATED.replace("1.25", factor))
    with pytest.raises(UsageError) as caught:
        load_topology(str(path), 1)
    assert caught.value.message_id == "file.bad_value"
    assert "calibration.gemm" in str(caught.value)


def test_files_that_are_like_one_another_end(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("like: ./mine.yaml\n")
    with pytest.raises(UsageError) as caught:
        load_topology(str(path), 1)
    assert "too long" in str(caught.value)
