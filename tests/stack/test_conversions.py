"""Weights go to Megatron-Core's format and come back to the last bit, by the real conversion.

The parallel sizes of the two sides differ; what was written is found to be whole by our checks.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from checkpoints import Array, write_checkpoint, write_safetensors

from convert.adapters import PREFIX, A, B
from convert.findings import Verdict
from convert.first_layers import write_first_layers
from convert.hf_folder import ADAPTER_CONFIG, read_hf_folder
from convert.scripts import PRECISION
from convert.torch_dist import read_torch_dist
from convert.values import difference
from convert.verify import verify_hf, verify_torch_dist
from planner.dialects import model_hint
from stack.real_stack import HERE, REPOSITORY, as_argv, python_path

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SIZES = {
    "ep2": {"expert_model_parallel_size": 2},
    "tp2": {"tensor_model_parallel_size": 2},
    "pp2": {"pipeline_model_parallel_size": 2},
}
PLUGIN = re.search(
    r"```python\n(.*?)```", (REPOSITORY / "docs" / "converting.md").read_text("utf-8"), re.DOTALL
)
RANK = 4
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
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
MORE_TYPES = ["olmoe", "deepseek_v2", "llama"]
TRIPS = [Trip(model_type, *way) for model_type in TYPES for way in WAYS]
TRIPS += [Trip(model_type, *WAYS[1]) for model_type in MORE_TYPES]


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


def write_adapter(folder: Path, weights: Path) -> Path:
    """Return `folder`, now with an adapter of every linear layer, in PEFT's format.

    mcore-bridge wants one A for what Megatron-Core holds as one matrix: q, k and v; gate and up.
    """
    folder.mkdir()
    rng = np.random.default_rng(7)
    pairs: dict[str, Array] = {}
    shared: dict[str, Array] = {}
    for name, tensor in read_hf_folder(weights).tensors.items():
        module, _, last = name.removesuffix(".weight").rpartition(".")
        if last not in TARGETS:
            continue
        group = f"{module}.{'qkv' if last in ('q_proj', 'k_proj', 'v_proj') else last}"
        group = group.replace("up_proj", "gate_proj")
        outputs, inputs = tensor.shape
        a = shared.setdefault(group, rng.standard_normal((RANK, inputs), np.float32))
        pairs[PREFIX + name.removesuffix(".weight") + A] = a
        b = rng.standard_normal((outputs, RANK), np.float32) * np.float32(0.01)
        pairs[PREFIX + name.removesuffix(".weight") + B] = b
    write_safetensors(folder / "adapter_model.safetensors", pairs)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 32,
        "target_modules": list(TARGETS),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def adapter_jobs(root: Path) -> Iterator[list[str]]:
    """Yield the arguments of an adapter's conversions: there, back, and merged two ways."""
    write_adapter(root / "adapter", root / "qwen3_moe")
    common = {
        "model": root / "qwen3_moe",
        "model_type": "qwen3_moe",
        "template": "qwen3",
        "torch_dtype": "bfloat16",
        "check_model": False,
        "tuner_type": "lora",
        "target_modules": "all-linear",
        "lora_rank": RANK,
        "lora_alpha": 32,
    }
    given = {**common, "adapters": root / "adapter"}
    there = {"to_mcore": True, "merge_lora": False, "output_dir": root / "adapter-mcore"}
    yield as_argv({**given, **there, **SIZES["ep2"]})
    yield as_argv({**given, "to_hf": True, "output_dir": root / "merged-given", **SIZES["ep2"]})
    held = {
        **common,
        "mcore_model": root / f"{TRIPS[0]}-mcore",
        "mcore_adapter": root / "adapter-mcore",
        "to_hf": True,
    }
    yield as_argv({**held, "output_dir": root / "merged-held", **SIZES["tp2"]})
    alone = {"merge_lora": False, "output_dir": root / "adapter-back"}
    yield as_argv({**held, **alone, **SIZES["pp2"]})


def first_layers_jobs(root: Path) -> Iterator[list[str]]:
    """Yield the arguments that convert a model of the first layers."""
    write_first_layers(root / "deepseek_v3", root / "first", None)
    hint = {"model_type": "deepseek_v3", "template": "deepseek_v2_5", "check_model": False}
    flags = {"model": root / "first", **hint, "to_mcore": True, "torch_dtype": "bfloat16"}
    yield as_argv({**flags, "output_dir": root / "first-mcore", **SIZES["pp2"]})


def logits_jobs(root: Path) -> Iterator[list[str]]:
    """Yield the arguments that compare logits, with the plugin of docs/converting.md."""
    assert PLUGIN is not None
    plugin = root / "compare_logits.py"
    plugin.write_text(PLUGIN[1])
    flags = {"model": root / "qwen3_moe", "model_type": "qwen3_moe", "template": "qwen3"}
    compared = {"to_mcore": True, **PRECISION, "external_plugins": plugin, "check_model": False}
    yield as_argv({**flags, **compared, "output_dir": root / "compared", "torch_dtype": "bfloat16"})


def run_trips(root: Path, trips: list[Trip]) -> Path:
    """Return `root`, now with what all conversions wrote, by two processes."""
    for model_type in {trip.model_type for trip in trips}:
        write_checkpoint(root / model_type, model_type)
    argvs = [argv for trip in trips for argv in jobs(root, trip)]
    argvs += [*adapter_jobs(root), *first_layers_jobs(root), *logits_jobs(root)]
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
    (root / "log").write_text(ran.stdout)
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


@pytest.mark.parametrize("name", ["merged-given", "merged-held"])
def test_a_merged_model_is_the_base_and_the_adapters_product(converted: Path, name: str) -> None:
    source, adapter = converted / "qwen3_moe", converted / "adapter"
    merged = verify_hf(converted / name, source=source, adapter=adapter)
    assert [finding.values for finding in merged.findings] == [{"file": "generation_config.json"}]
    assert "product in 64 weights; 23 of 87 tensors were not changed" in " ".join(merged.checks)
    other = verify_hf(source, source=source, adapter=adapter).findings
    assert {finding.id for finding in other} == {"convert.not_merged"}
    assert len(other) == 64


def test_an_adapter_comes_back_to_the_last_bit(converted: Path) -> None:
    there, back = (
        read_hf_folder(converted / name, ADAPTER_CONFIG).tensors
        for name in ("adapter", "adapter-back")
    )
    assert there.keys() == back.keys()
    assert [name for name in there if difference(there[name], back[name]).elements] == []


def test_a_model_of_the_first_layers_converts(converted: Path) -> None:
    first = verify_torch_dist(converted / "first-mcore", source=converted / "first")
    assert first.findings == []
    assert "the number of parameters" in first.checks


def test_logits_of_both_sides_agree_with_the_plugin_of_the_documents(converted: Path) -> None:
    """ms-swift asks for less than 0.1; in fp32 the same weights differ by rounding alone."""
    found = re.findall(r"^mean_diff: (\S+),", (converted / "log").read_text(), re.MULTILINE)
    assert found and all(0 < float(each) < 1e-6 for each in found)


LOADS_BESIDE_THE_BRIDGE = """
import sys
from mcore_bridge.model import rope
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

for source in ("", open(sys.argv[2]).read()):
    exec(source)
    ROPE_INIT_FUNCTIONS.update(rope.EXTENDED_ROPE_INIT_FUNCTIONS)  # as its get_rope_inv_freq does
    try:
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
        print("loads", model.model.rotary_emb.inv_freq[0].item())
    except AttributeError as error:
        print(error)
"""


def test_transformers_loads_no_model_beside_the_bridge_without_the_plugin(converted: Path) -> None:
    """When this fails, docs/converting.md and `precision_needs` need no plugin any more."""
    ran = subprocess.run(
        [sys.executable, "-c", LOADS_BESIDE_THE_BRIDGE, "qwen3_moe", "compare_logits.py"],
        env={**os.environ, "PYTHONPATH": python_path("0.16.1"), "HF_HUB_OFFLINE": "1"},
        cwd=converted,
        capture_output=True,
        text=True,
        check=True,
    )
    refused = "'Qwen3MoeConfig' object has no attribute 'rope_theta'"
    assert ran.stdout.splitlines() == [refused, "loads 1.0"]
