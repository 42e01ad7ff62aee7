"""Quantised weights stand for the numbers that the packages make of them."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_safetensors

from convert.quantised import fp8_rows, mxfp4_rows
from convert.safetensors_file import read_header
from convert.values import Array

pytestmark = [
    pytest.mark.stack,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of importing mcore-bridge
]

ROWS, COLUMNS = 300, 200  # no multiples of a block


def bridge_dequantizer() -> Any:
    """Return the module of mcore-bridge that reads quantised weights, and nothing else of it."""
    package = find_spec("mcore_bridge")
    assert package is not None and package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "utils" / "dequantizer.py"
    spec = spec_from_file_location("dequantizer", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bits(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.bfloat16().contiguous().view(torch.uint16).numpy())


def test_fp8_as_the_bridge_reads_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    byte = rng.integers(0, 127, (ROWS, COLUMNS), np.uint8)
    scales = rng.random((3, 2), np.float32)
    write_safetensors(tmp_path / "file", {"weight": byte, "weight_scale_inv": scales})
    weight, scale = read_header(tmp_path / "file")
    wanted = (
        bridge_dequantizer()
        .Fp8Dequantizer()
        .convert(torch.from_numpy(byte), torch.from_numpy(scales))
    )
    held = [fp8_rows(weight, scale, (128, 128), start, 128) for start in (0, 128, 256)]
    np.testing.assert_array_equal(np.concatenate(held), bits(wanted))


def test_mxfp4_as_transformers_reads_it(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (2, 6, 4, 16), np.uint8)
    scales = rng.integers(100, 140, blocks.shape[:-1], np.uint8)
    write_safetensors(tmp_path / "file", {"weight_blocks": blocks, "weight_scales": scales})
    wanted = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales))
    rows = np.concatenate(list(mxfp4_rows(*read_header(tmp_path / "file"))))
    np.testing.assert_array_equal(rows, bits(wanted).reshape(rows.shape))
