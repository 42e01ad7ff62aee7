"""The model that a checkpoint was made from: its tensors as the conversion reads them.

Weights in fp8 are multiplied by the scales of their blocks in float32 and then rounded, as
mcore-bridge 1.6.5 (utils/dequantizer.py) and Transformer Engine 2.12
(pytorch/tensor/storage/float8_blockwise_tensor_storage.py) do.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from convert.hf_folder import SCALE, HfFolder
from convert.safetensors_file import Tensor
from convert.values import (
    SAMPLE_ELEMENTS,
    Array,
    Difference,
    as_float32,
    difference,
    largest_gap,
    read_rows,
    sample,
    to_bfloat16,
)

FP8 = "F8_E4M3"
BLOCK = 128  # rows and columns of a scale, where config.json does not say it
ROWS_ELEMENTS = 2**20  # of a weight, at once in memory
# Beginnings of tensors that are read to find where a tensor comes from: a checkpoint of which
# nothing is right must not be searched for every one of its experts.
MOST_HEADS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a checkpoint is compared with."""

    tensors: dict[str, Tensor]
    block: tuple[int, int] = (BLOCK, BLOCK)
    _heads: Iterator[int] = field(default_factory=count)  # counts what was read in searches

    def may_search(self) -> bool:
        """Whether one more beginning of a tensor may be read in search of where one comes from."""
        return next(self._heads) < MOST_HEADS

    def is_scaled(self, name: str) -> bool:
        """Whether a weight is a matrix in fp8 that has scales."""
        weight = self.tensors[name]
        is_matrix = len(weight.shape) == 2 and weight.elements > 0
        return is_matrix and weight.dtype == FP8 and f"{name}{SCALE}" in self.tensors

    def difference(self, tensor: Tensor) -> Difference:
        """Where a tensor differs from the one of its name.

        Raises DamagedFileError: convert.unreadable; ValueError where the types cannot be compared.
        """
        other = self.tensors[tensor.name]
        if tensor.dtype != "BF16" or not self.is_scaled(tensor.name):
            return difference(tensor, other)
        elements, largest = 0, None
        step = rows_at_once(other, self.block[0])
        for start in range(0, tensor.shape[0], step):
            here, there = read_rows(tensor, start, step), self.rows(tensor.name, start, step)
            if not np.array_equal(here, there):
                elements += int((here != there).sum())
                x, y = (as_float32(each.reshape(-1), "BF16") for each in (here, there))
                assert x is not None and y is not None
                largest = max(largest or 0.0, largest_gap(x, y))
        return Difference(elements=elements, largest=largest)

    def rows(self, name: str, start: int, number: int) -> Array:
        """The bits in bfloat16 of some rows of a matrix, `start` a multiple of a block's rows.

        Raises DamagedFileError: convert.unreadable; ValueError where it is in no such type.
        """
        tensor = self.tensors[name]
        if tensor.dtype == "BF16":
            return read_rows(tensor, start, number)
        if not self.is_scaled(name):
            raise ValueError(f"{tensor.dtype} and BF16")
        bits = read_rows(tensor, start, number)
        scales = self._scales(tensor, start, len(bits))
        return to_bfloat16(_E4M3[bits] * scales)

    def sample(self, name: str) -> Array | None:
        """The first numbers of a tensor as float32; None of a type that is not compared as numbers.

        Raises DamagedFileError: convert.unreadable.
        """
        if not self.is_scaled(name):
            return sample(self.tensors[name])
        columns = self.tensors[name].shape[-1]
        rows = self.rows(name, 0, math.ceil(SAMPLE_ELEMENTS / columns))
        return as_float32(rows.reshape(-1)[:SAMPLE_ELEMENTS], "BF16")

    def _scales(self, tensor: Tensor, start: int, rows: int) -> Array:
        """A scale for each number of some rows. Raises ValueError: they are of other blocks."""
        held = self.tensors[f"{tensor.name}{SCALE}"]
        high, wide = self.block
        wanted = tuple(math.ceil(n / b) for n, b in zip(tensor.shape, self.block, strict=True))
        if held.shape != wanted:
            raise ValueError(f"{FP8} with scales {list(held.shape)}, not {list(wanted)}, and BF16")
        first, last = start // high, math.ceil((start + rows) / high)
        bits = read_rows(held, first, last - first)
        scales = as_float32(bits.reshape(-1), held.dtype)
        if scales is None:
            raise ValueError(f"{FP8} with scales in {held.dtype}, and BF16")
        spread = np.repeat(np.repeat(scales.reshape(bits.shape), high, axis=0), wide, axis=1)
        skipped = start - first * high
        return spread[skipped : skipped + rows, : tensor.shape[1]]


def source_of(folder: HfFolder | None) -> Source:
    """The tensors of a folder as a source; none where there is none."""
    if folder is None:
        return Source(tensors={})
    return Source(tensors=folder.tensors, block=_block(folder.config))


def _block(config: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    quantization = config.get("quantization_config")
    size = quantization.get("weight_block_size") if isinstance(quantization, dict) else None
    if isinstance(size, list) and [type(each) for each in size] == [int, int] and min(size) > 0:
        return size[0], size[1]
    return BLOCK, BLOCK


def rows_at_once(tensor: Tensor, block: int) -> int:
    """Rows that are read together: whole blocks."""
    return block * max(1, ROWS_ELEMENTS // (block * max(1, tensor.shape[1])))


def _e4m3() -> Array:
    """The number of each byte: 4 bits of exponent with bias 7, 3 of mantissa, no infinity.

    Source: "FP8 Formats for Deep Learning" (2022), table 1.
    """
    byte = np.arange(256)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    values = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    values = np.where((byte & 127) == 127, np.nan, values)
    return np.where(byte < 128, values, -values).astype(np.float32)


_E4M3 = _e4m3()
