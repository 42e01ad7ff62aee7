"""The model that a checkpoint was made from: its tensors as a conversion reads them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from math import prod
from typing import Any

import numpy as np

from convert.hf_folder import SCALE, HfFolder
from convert.quantised import (
    BLOCK,
    FP8,
    PACKED,
    fp8_rows,
    mxfp4_rows,
    rows_at_once,
    unpacked_shape,
)
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
)

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

    def packed(self, name: str) -> tuple[Tensor, Tensor] | None:
        """The blocks and scales that stand in the place of a weight in mxfp4."""
        blocks, scales = (self.tensors.get(f"{name}{end}") for end in PACKED)
        return (blocks, scales) if blocks is not None and scales is not None else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, as it is where it is not quantised; None where there is none."""
        if packed := self.packed(name):
            return unpacked_shape(*packed)
        return self.tensors[name].shape if name in self.tensors else None

    def size(self, name: str) -> int:
        """Bytes of a tensor in its files."""
        held = self.packed(name) or (self.tensors[name],)
        return sum(each.size for each in held)

    def difference(self, tensor: Tensor) -> Difference:
        """Where a tensor differs from the one of its name.

        Raises DamagedFileError: convert.unreadable; ValueError where the types cannot be compared.
        """
        name = tensor.name
        if self.packed(name) is None and (tensor.dtype != "BF16" or not self.is_scaled(name)):
            return difference(tensor, self.tensors[name])
        if tensor.dtype != "BF16":
            raise ValueError(f"{tensor.dtype} and mxfp4")
        flat = replace(tensor, shape=(prod(tensor.shape[:-1]), tensor.shape[-1]))
        elements, largest, at = 0, None, 0
        for there in self.all_rows(name):
            here = read_rows(flat, at, len(there))
            at += len(there)
            if not np.array_equal(here, there):
                elements += int((here != there).sum())
                x, y = (as_float32(each.reshape(-1), "BF16") for each in (here, there))
                assert x is not None and y is not None
                largest = max(largest or 0.0, largest_gap(x, y))
        return Difference(elements=elements, largest=largest)

    def all_rows(self, name: str) -> Iterator[Array]:
        """The bits in bfloat16 of the rows of a quantised weight, some after the other.

        Raises DamagedFileError: convert.unreadable; ValueError where they cannot be read.
        """
        if packed := self.packed(name):
            yield from mxfp4_rows(*packed)
            return
        weight = self.tensors[name]
        step = rows_at_once(weight, self.block[0])
        for start in range(0, weight.shape[0], step):
            yield self.rows(name, start, step)

    def rows(self, name: str, start: int, number: int) -> Array:
        """The bits in bfloat16 of some rows of a matrix, `start` a multiple of a block's rows.

        Raises DamagedFileError: convert.unreadable; ValueError where it is in no such type.
        """
        tensor = self.tensors[name]
        if tensor.dtype == "BF16":
            return read_rows(tensor, start, number)
        if not self.is_scaled(name):
            raise ValueError(f"{tensor.dtype} and BF16")
        return fp8_rows(tensor, self.tensors[f"{name}{SCALE}"], self.block, start, number)

    def sample(self, name: str) -> Array | None:
        """The first numbers of a tensor as float32; None of a type that is not compared as numbers.

        Raises DamagedFileError: convert.unreadable; ValueError where they cannot be read.
        """
        if self.packed(name) is None and not self.is_scaled(name):
            return sample(self.tensors[name])
        held: list[Array] = []
        for rows in self.all_rows(name):
            held.append(rows.reshape(-1))
            if sum(map(len, held)) >= SAMPLE_ELEMENTS:
                break
        return as_float32(np.concatenate(held)[:SAMPLE_ELEMENTS], "BF16")


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
