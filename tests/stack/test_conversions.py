"""Weights go to Megatron-Core's format and come back to the last bit, by the real conversion.

The parallel sizes of the two sides differ; what was written is found to be whole by our checks.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from convert.findings import Verdict
from convert.torch_dist import read_torch_dist
from convert.verify import verify_hf, verify_torch_dist
from planner.dialects import model_hint
from stack.real_stack import HERE, as_argv, python_path

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SIZES = {
    "ep2": {"expert_model_parallel_size": 2},
    "tp2": {"tensor_model_parallel_size": 2},
    "pp2": {"pipeline_model_parallel_size": 2},
}
WITH_MTP = ("deepseek_v3", "glm4_moe")


@dataclass(frozen=True, slots=True)
class Trip:
    """A small model of a type, the sizes that it goes with, and those that it comes back with."""

    model_type: str
    there: str
    back: str

    def __str__(self) -> str:
        return f"{self.model_type}-{self.there}-{self.back}"


WAYS = [("ep2", "tp2"), ("tp2", "pp2"), ("pp2", "ep2")]
TYPES = ["qwen3_moe", "deepseek_v3", "qwen2_moe", "glm4_moe", "gpt_oss", "qwen3", "qwen2"]
TRIPS = [Trip(model_type, *way) for model_type in TYPES for way in WAYS]


def jobs(root: Path, trip: Trip) -> Iterator[list[str]]:
    """Yield the arguments of both conversions of a trip."""
    hint = model_hint(trip.model_type, "unknown", "4.6")
    assert hint is not None
    common = {
        "model": root / trip.model_type,
        "model_type": hint.model_type,
        "template": hint.template,
        "torch_dtype": "bfloat16",
        "check_model": False,
        **({"mtp_num_layers": 1} if trip.model_type in WITH_MTP else {}),
    }
    mcore = root / f"{trip}-mcore"
    yield as_argv({**common, "to_mcore": True, "output_dir": mcore, **SIZES[trip.there]})
    back = {"mcore_model": mcore, "output_dir": root / f"{trip}-hf", **SIZES[trip.back]}
    yield as_argv({**common, "to_hf": True, **back})


def run_trips(root: Path, trips: list[Trip]) -> Path:
    """Return `root`, now with what all conversions of the trips wrote, by two processes."""
    for model_type in {trip.model_type for trip in trips}:
        write_checkpoint(root / model_type, model_type)
    argvs = [argv for trip in trips for argv in jobs(root, trip)]
    (root / "jobs.json").write_text(json.dumps(argvs))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [*launcher, str(HERE / "conversions_on_cpu.py"), str(root / "jobs.json")],
        env={**os.environ, "PYTHONPATH": python_path("0.16.1"), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-8000:]
    return root


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_trips(tmp_path_factory.mktemp("converted"), TRIPS)


@pytest.mark.parametrize("trip", TRIPS, ids=str)
def test_weights_come_back_to_the_last_bit(converted: Path, trip: Trip) -> None:
    source = converted / trip.model_type
    there = verify_torch_dist(converted / f"{trip}-mcore", source=source)
    assert there.findings == []
    assert "the number of parameters" in there.checks
    assert not there.not_checked
    back = verify_hf(converted / f"{trip}-hf", source=source)
    # all that ms-swift itself does not carry: the scripts do
    assert [finding.values for finding in back.findings] == [{"file": "generation_config.json"}]
    whole = f"{back.tensors} of {back.tensors} tensors equal the source to the last bit"
    assert whole in back.checks
    assert f"names and shapes: those of the {trip.model_type} of config.json" in back.checks


@pytest.mark.parametrize("trip", TRIPS[:2], ids=str)
def test_a_real_checkpoint_that_lost_a_file_or_its_end_is_torn(converted: Path, trip: Trip) -> None:
    """Each file of a checkpoint of Megatron-Core is missed, one after the other."""
    checkpoint = read_torch_dist(converted / f"{trip}-mcore").path
    for path in sorted(checkpoint.iterdir()):
        kept = path.read_bytes()
        try:
            path.unlink()
            missing = verify_torch_dist(checkpoint)
            assert missing.verdict is Verdict.DAMAGED, path.name
            assert any(path.name == each.values.get("file") for each in missing.findings)
            path.write_bytes(kept[:-40])
            assert verify_torch_dist(checkpoint).verdict is Verdict.DAMAGED, path.name
        finally:
            path.write_bytes(kept)
