"""The header of a safetensors file: which tensors it holds, and where.

The form is the one of safetensors 0.8 (README.md, "Format"): eight bytes with the length of a JSON
header, the header, then the tensors without gaps. Read with the standard library alone.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from convert.findings import DamagedFileError, damage
from planner.yaml_files import one_line

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100_000_000  # MAX_HEADER_SIZE of safetensors 0.8, safetensors/src/tensor.rs

# Bits of an element: the types of safetensors 0.8.
DTYPE_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "C64": 64,
    "I64": 64,
    "U64": 64,
    "I32": 32,
    "U32": 32,
    "I16": 16,
    "U16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
}
# How many bytes are read as one number: of narrower types the byte that several share.
DTYPE_BYTES = {dtype: max(1, bits // 8) for dtype, bits in DTYPE_BITS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of a file. `offset` counts from the start of the file; `size` is in bytes."""

    name: str
    dtype: str  # of DTYPE_BITS
    shape: tuple[int, ...]
    path: Path
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def read_header(path: Path) -> list[Tensor]:
    """The tensors of a file, in the order in which they lie in it.

    Raises DamagedFileError: convert.bad_header, convert.cut_short, convert.unreadable.
    """
    try:
        actual = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            start = LENGTH_BYTES + length
            if length > MOST_HEADER_BYTES:
                raise _bad_header(path, f"its header would take {length} bytes")
            if actual < start:
                raise _cut_short(path, start, actual)
            text = file.read(length)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DamagedFileError(damage("unreadable", file=path.name, reason=reason)) from None
    tensors = _tensors(path, text, start)
    end = tensors[-1].offset + tensors[-1].size if tensors else start
    if actual < end:
        raise _cut_short(path, end, actual)
    if actual > end:
        raise _bad_header(path, f"{actual - end} bytes follow its last tensor")
    return tensors


def _tensors(path: Path, text: bytes, start: int) -> list[Tensor]:
    """The entries of a header, checked to lie one after the other."""
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors = [_tensor(path, name, entry, start) for name, entry in entries.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _bad_header(path, one_line(error)) from None
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size))
    at = start
    for tensor in tensors:
        if tensor.offset != at:
            raise _bad_header(path, f"{tensor.name} does not begin where the one before it ends")
        at += tensor.size
    return tensors


def _tensor(path: Path, name: str, entry: dict[str, Any], start: int) -> Tensor:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    first, last = entry["data_offsets"]
    if dtype not in DTYPE_BITS:
        raise ValueError(f"{name} has the unknown type {dtype}")
    if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise ValueError(f"{name} has sizes that are no whole numbers")
    if prod(shape) * DTYPE_BITS[dtype] != 8 * (last - first):
        raise ValueError(f"{name} has {last - first} bytes, not those of {dtype} {list(shape)}")
    return Tensor(
        name=name, dtype=dtype, shape=shape, path=path, offset=start + first, size=last - first
    )


def _bad_header(path: Path, reason: str) -> DamagedFileError:
    return DamagedFileError(damage("bad_header", file=path.name, reason=reason))


def _cut_short(path: Path, promised: int, actual: int) -> DamagedFileError:
    return DamagedFileError(damage("cut_short", file=path.name, promised=promised, actual=actual))
