"""Quantised weights as the numbers in bfloat16 that a conversion makes of them, row by row.

Weights in fp8 are multiplied by the scales of their blocks in float32 and then rounded, as
mcore-bridge 1.6.5 (utils/dequantizer.py) and Transformer Engine 2.12
(pytorch/tensor/storage/float8_blockwise_tensor_storage.py) do. Of mxfp4 each byte holds two
numbers, the lower half the first; 32 along a row share an exponent, and the result is transposed
(transformers 5.19, integrations/mxfp4.py:257, which mcore-bridge calls).
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from convert.safetensors_file import Tensor
from convert.values import Array, as_float32, read_rows, to_bfloat16

FP8 = "F8_E4M3"
BLOCK = 128  # rows and columns of a scale of fp8, where config.json does not say it
ROWS_ELEMENTS = 2**20  # of a weight, at once in memory
PACKED = ("_blocks", "_scales")  # what ends the names that stand in the place of a weight in mxfp4
EXPONENT_BIAS = 127
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # and the same below zero


def rows_at_once(tensor: Tensor, block: int) -> int:
    """Rows that are read together: whole blocks."""
    return block * max(1, ROWS_ELEMENTS // (block * max(1, tensor.shape[1])))


def fp8_rows(
    weight: Tensor, scales: Tensor, block: tuple[int, int], start: int, number: int
) -> Array:
    """The bits in bfloat16 of some rows, `start` a multiple of a block's.

    Raises DamagedFileError: convert.unreadable; ValueError where the scales are of other blocks.
    """
    (high, wide), (rows, columns) = block, weight.shape
    wanted = (math.ceil(rows / high), math.ceil(columns / wide))
    if scales.shape != wanted:
        raise ValueError(f"{FP8} with scales {list(scales.shape)}, not {list(wanted)}, and BF16")
    bits = read_rows(weight, start, number)
    first, last = start // high, math.ceil((start + len(bits)) / high)
    held = read_rows(scales, first, last - first)
    numbers = as_float32(held.reshape(-1), scales.dtype)
    if numbers is None:
        raise ValueError(f"{FP8} with scales in {scales.dtype}, and BF16")
    # What each byte stands for in each block: looking it up takes a fifth of multiplying.
    tables = to_bfloat16(_E4M3 * numbers.reshape(held.shape)[..., None])
    made = np.empty(bits.shape, dtype=np.uint16)
    for row, column in np.ndindex(held.shape):
        part = np.s_[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
        np.take(tables[row, column], bits[part], out=made[part], mode="clip")
    return made


def unpacked_shape(blocks: Tensor, scales: Tensor) -> tuple[int, ...] | None:
    """The shape of what is packed in mxfp4; None where the two do not fit each other."""
    if len(blocks.shape) != 4 or blocks.shape[:-1] != scales.shape:
        return None
    experts, columns, groups, size = blocks.shape
    return experts, 2 * groups * size, columns


def mxfp4_rows(blocks: Tensor, scales: Tensor) -> Iterator[Array]:
    """The bits in bfloat16 of all rows of all experts; an expert at a time is in memory, packed.

    Raises DamagedFileError: convert.unreadable.
    """
    experts, columns, groups, size = blocks.shape
    flat = replace(blocks, shape=(experts * columns, groups * size))
    exponents = replace(scales, shape=(experts * columns, groups))
    step = max(1, ROWS_ELEMENTS // max(1, 2 * size * columns))
    for expert in range(experts):
        held = read_rows(flat, expert * columns, columns).reshape(columns, groups, size)
        powers = read_rows(exponents, expert * columns, columns).astype(np.uint16) << 8
        for start in range(0, groups, step):
            part = np.s_[:, start : start + step]
            pairs = np.take(_MXFP4, held[part] | powers[part][..., None], mode="clip")
            yield np.ascontiguousarray(pairs.view(np.uint16).reshape(columns, -1).T)


def _mxfp4() -> Array:
    """The bits in bfloat16 of the two numbers of each byte under each exponent, as one number of
    32 bits; the exponent is the higher byte of where they stand.

    Rounding to float32 first changes nothing but numbers that bfloat16 rounds to 0 or infinity.
    """
    values = np.array([*FP4, *(-each for each in FP4)])
    byte = np.arange(256)
    pairs = np.stack([values[byte & 15], values[byte >> 4]], axis=-1)
    with np.errstate(over="ignore", under="ignore"):
        powers = np.ldexp(1.0, byte - EXPONENT_BIAS)
        numbers = (powers[:, None, None] * pairs).astype(np.float32)
    return to_bfloat16(numbers).view(np.uint32).reshape(-1)


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
_MXFP4 = _mxfp4()
