"""A source in fp8 is compared as the numbers that it stands for, and searches for where a tensor
comes from end."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from checkpoints import Array, random_weights, tiny_config, write_checkpoint, write_weights

from convert import quantised
from convert import source as source_module
from convert.comparison import unequal
from convert.findings import Verdict
from convert.first_layers import write_first_layers
from convert.hf_folder import read_hf_folder
from convert.quantised import _E4M3
from convert.source import source_of
from convert.values import head
from convert.verify import verify_hf

BLOCK = 24  # divides no size of the small models
NAME = "model.layers.2.self_attn.o_proj.weight"
EXPERT = "model.layers.1.mlp.experts.{}.up_proj.weight"


def is_quantised(name: str) -> bool:
    return (".self_attn." in name and "norm" not in name) or (".mlp." in name and "_proj." in name)


def in_fp8(weights: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return weights as DeepSeek publishes them, and what they stand for in bfloat16, by torch."""
    rng = np.random.default_rng(3)
    quantised: dict[str, Array] = {}
    meant: dict[str, Array] = {}
    for name, bits in weights.items():
        if not is_quantised(name):
            quantised[name] = meant[name] = bits
            continue
        rows, columns = bits.shape
        byte = rng.integers(0, 256, bits.shape, np.uint8)
        byte[(byte & 127) == 127] = 0  # NaN
        scales = rng.random((-(-rows // BLOCK), -(-columns // BLOCK)), np.float32) * 1e-3
        quantised[name], quantised[f"{name}_scale_inv"] = byte, scales
        numbers = torch.from_numpy(byte).view(torch.float8_e4m3fn).float()
        each = torch.from_numpy(scales)
        each = each.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :columns]
        meant[name] = (numbers * each).bfloat16().view(torch.uint16).numpy()
    return quantised, meant


class Folders:
    """A model in fp8, and the same in bfloat16."""

    def __init__(self, root: Path) -> None:
        self.source = write_checkpoint(root / "source", "deepseek_v3")
        self.checkpoint = write_checkpoint(root / "checkpoint", "deepseek_v3")
        config = json.loads((self.source / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [BLOCK] * 2}
        (self.source / "config.json").write_text(json.dumps(config))
        self.quantised, self.meant = in_fp8(random_weights(tiny_config("deepseek_v3")))
        write_weights(self.source, self.quantised)
        write_weights(self.checkpoint, self.meant)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_every_byte_is_the_number_that_torch_reads() -> None:
    byte = np.arange(256, dtype=np.uint8)
    wanted = torch.from_numpy(byte).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(_E4M3, wanted)


@pytest.mark.parametrize("trained", [True, False])
def test_what_fp8_stands_for_equals_it(folders: Folders, *, trained: bool) -> None:
    if trained:
        changed = {
            name: bits ^ 1 if bits.dtype == np.uint16 else bits
            for name, bits in folders.meant.items()
        }
        write_weights(folders.checkpoint, changed)
    result = verify_hf(folders.checkpoint, source=folders.source, trained=trained)
    assert (result.verdict, result.not_checked) == (Verdict.SOUND, [])
    equal = 4 if trained else result.tensors  # biases of experts in fp32
    assert f"{equal} of {result.tensors} tensors" in " ".join(result.checks)


def test_one_other_number_and_experts_in_each_others_places_are_found(folders: Folders) -> None:
    changed = dict(folders.meant)
    changed[NAME] = changed[NAME].copy()
    changed[NAME][-1, -1] ^= 1
    one, other = EXPERT.format(0), EXPERT.format(3)
    changed[one], changed[other] = changed[other], changed[one]
    write_weights(folders.checkpoint, changed)
    found = verify_hf(folders.checkpoint, source=folders.source).findings
    assert {(each.id, each.values["tensor"]) for each in found} == {
        ("convert.differs", NAME),
        ("convert.differs", one),
        ("convert.differs", other),
    }
    (last,) = (each for each in found if each.values["tensor"] == NAME)
    assert last.values["different"] == 1
    trained = verify_hf(folders.checkpoint, source=folders.source, trained=True).findings
    assert {each.values["tensor"] for each in trained} == {one, other}


def test_scales_of_other_blocks_are_not_compared_and_said(folders: Folders) -> None:
    folders.quantised[f"{NAME}_scale_inv"] = np.ones((1, 1), np.float32)
    write_weights(folders.source, folders.quantised)
    result = verify_hf(folders.checkpoint, source=folders.source)
    assert result.findings == []
    assert result.not_checked == [
        "1 tensors against the source: F8_E4M3 with scales [1, 1], not [3, 3], and BF16"
    ]


FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
PACKED = ("experts.gate_up_proj", "experts.down_proj")


def in_mxfp4(weights: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return weights as gpt-oss is published, and what they stand for, by torch."""
    rng = np.random.default_rng(3)
    packed: dict[str, Array] = {}
    meant: dict[str, Array] = {}
    values = torch.tensor(FP4)
    for name, bits in weights.items():
        if not name.endswith(PACKED):
            packed[name] = meant[name] = bits
            continue
        experts, rows, columns = bits.shape
        blocks = rng.integers(0, 256, (experts, columns, rows // 32, 16), np.uint8)
        scales = rng.integers(115, 122, blocks.shape[:-1], np.uint8)
        packed[f"{name}_blocks"], packed[f"{name}_scales"] = blocks, scales
        halves = torch.from_numpy(np.stack([blocks & 15, blocks >> 4], axis=-1).astype(int))
        exponent = torch.from_numpy(scales.astype(np.int32) - 127)[..., None, None]
        numbers = torch.ldexp(values[halves], exponent).reshape(experts, columns, rows)
        meant[name] = numbers.transpose(1, 2).bfloat16().contiguous().view(torch.uint16).numpy()
    return packed, meant


@pytest.fixture
def packed_folders(tmp_path: Path) -> tuple[Path, Path, dict[str, Array]]:
    """A model in mxfp4, the same in bfloat16, and its weights."""
    source, checkpoint = (
        write_checkpoint(tmp_path / name, "gpt_oss") for name in ("source", "checkpoint")
    )
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (source / "config.json").write_text(json.dumps(config))
    packed, meant = in_mxfp4(random_weights(tiny_config("gpt_oss")))
    write_weights(source, packed)
    write_weights(checkpoint, meant)
    return source, checkpoint, meant


@pytest.mark.parametrize("elements", [1, 2**20])
def test_what_mxfp4_stands_for_equals_it(
    packed_folders: tuple[Path, Path, dict[str, Array]], elements: int
) -> None:
    """Whether few of its rows are in memory at once or all."""
    source, checkpoint, meant = packed_folders
    assert verify_hf(source).verdict is Verdict.SOUND
    with mock.patch.object(quantised, "ROWS_ELEMENTS", elements):
        result = verify_hf(checkpoint, source=source)
        assert (result.verdict, result.not_checked) == (Verdict.SOUND, [])
        assert f"{result.tensors} of {result.tensors} tensors" in " ".join(result.checks)
        name = "model.layers.1.mlp.experts.gate_up_proj"
        other = meant[name].copy()
        other[-1, -1, -1] ^= 1
        write_weights(checkpoint, {**meant, name: other})
        (found,) = verify_hf(checkpoint, source=source).findings
    assert (found.id, found.values["tensor"]) == ("convert.differs", name)
    assert found.values["different"] == 1
    write_weights(checkpoint, {**meant, name: meant[name][::-1].copy()})
    (found,) = verify_hf(checkpoint, source=source, trained=True).findings
    assert (found.id, found.values["tensor"]) == ("convert.unrelated", name)


def test_what_is_packed_otherwise_or_by_half_is_named(
    packed_folders: tuple[Path, Path, dict[str, Array]],
) -> None:
    source, _, _ = packed_folders
    packed, _ = in_mxfp4(random_weights(tiny_config("gpt_oss")))
    name = "model.layers.1.mlp.experts.gate_up_proj"
    write_weights(source, {**packed, f"{name}_blocks": packed[f"{name}_blocks"][:, :-1].copy()})
    (found,) = verify_hf(source).findings
    assert (found.id, found.values["tensor"]) == ("convert.shape", name)
    del packed[f"{name}_scales"]
    write_weights(source, packed)
    (found,) = verify_hf(source).findings
    assert (found.id, found.values["tensor"]) == ("convert.missing_tensor", name)


def test_a_packed_model_of_the_first_layers_is_whole(
    packed_folders: tuple[Path, Path, dict[str, Array]], tmp_path: Path
) -> None:
    source, _, _ = packed_folders
    write_first_layers(source, tmp_path / "first", None)
    first = verify_hf(tmp_path / "first")
    assert first.verdict is Verdict.SOUND
    assert first.bytes_read < verify_hf(source).bytes_read


def test_what_is_said_of_a_source_of_infinities_is_json(tmp_path: Path) -> None:
    source, checkpoint = (write_checkpoint(tmp_path / name) for name in ("source", "checkpoint"))
    weights = random_weights(tiny_config("qwen3_moe"))
    weights["model.layers.2.mlp.gate.weight"][:] = 0x7F80
    write_weights(source, weights)
    result = verify_hf(checkpoint, source=source)
    assert [each.id for each in result.findings] == ["convert.differs"]
    json.dumps(result.to_json(), allow_nan=False)


def test_a_search_for_where_tensors_come_from_ends(tmp_path: Path) -> None:
    """Of a checkpoint of which nothing is right, tensors are named and not searched for."""
    source = source_of(read_hf_folder(write_checkpoint(tmp_path / "source")))
    other = read_hf_folder(write_checkpoint(tmp_path / "other", seed=4)).tensors
    with (
        mock.patch.object(source_module, "MOST_HEADS", 20),
        mock.patch("convert.comparison.head", wraps=head) as read,
    ):
        found = [unequal(tensor, source) for name, tensor in other.items() if "proj" in name]
    assert {each.id for each in found if each} == {"convert.differs"}
    assert read.call_count <= len(found) + 20
