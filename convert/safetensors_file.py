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

# Bytes of an element: the types of safetensors 0.8 that whole bytes hold.
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of a file. `offset` counts from the start of the file; `size` is in bytes."""

    name: str
    dtype: str  # of DTYPE_BYTES
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
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"{name} has the unknown type {dtype}")
    if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise ValueError(f"{name} has sizes that are no whole numbers")
    if prod(shape) * DTYPE_BYTES[dtype] != last - first:
        raise ValueError(f"{name} has {last - first} bytes, not those of {dtype} {list(shape)}")
    return Tensor(
        name=name, dtype=dtype, shape=shape, path=path, offset=start + first, size=last - first
    )


def _bad_header(path: Path, reason: str) -> DamagedFileError:
    return DamagedFileError(damage("bad_header", file=path.name, reason=reason))


def _cut_short(path: Path, promised: int, actual: int) -> DamagedFileError:
    return DamagedFileError(damage("cut_short", file=path.name, promised=promised, actual=actual))
