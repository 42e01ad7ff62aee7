"""The numbers of tensors, read piece by piece: what they hold, and where two differ.

Only numpy is needed. A thread holds two pieces at most, whatever a tensor's size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.findings import DamagedFileError, damage
from convert.safetensors_file import DTYPE_BYTES, Tensor

Array = npt.NDArray[Any]

PIECE_BYTES = 4 * 2**20  # a multiple of every element's size
SAMPLE_ELEMENTS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the bits of a floating-point type are read: a number is not finite when, without its
    sign, it is `infinite` or more."""

    bits: Any  # the unsigned type of the same size
    magnitude: int  # all bits but the sign
    infinite: int
    inf: int | None  # the only pattern that is infinity; None: all of them are NaN


# Of the exponent all bits set: IEEE 754, and for fp8 "FP8 Formats for Deep Learning" (2022), table
# 1, in the form without infinities that torch calls float8_e4m3fn.
FORMS = {
    "F64": Form(bits=np.uint64, magnitude=2**63 - 1, infinite=0x7FF << 52, inf=0x7FF << 52),
    "F32": Form(bits=np.uint32, magnitude=2**31 - 1, infinite=0xFF << 23, inf=0xFF << 23),
    "F16": Form(bits=np.uint16, magnitude=2**15 - 1, infinite=0x1F << 10, inf=0x1F << 10),
    "BF16": Form(bits=np.uint16, magnitude=2**15 - 1, infinite=0xFF << 7, inf=0xFF << 7),
    "F8_E5M2": Form(bits=np.uint8, magnitude=2**7 - 1, infinite=0x1F << 2, inf=0x1F << 2),
    "F8_E4M3": Form(bits=np.uint8, magnitude=2**7 - 1, infinite=0x7F, inf=None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a tensor holds, as far as one pass over it tells."""

    nan: int
    inf: int
    all_zero: bool
    sample: Array | None  # its first numbers as float32; None: no floating-point type of two bytes


_free: list[Array] = []  # buffers that nobody uses: new memory costs more than reading into it


@contextmanager
def _buffer() -> Iterator[Array]:
    """Memory of a piece's size, given back for the next one who asks, in any thread."""
    try:
        buffer = _free.pop()
    except IndexError:
        buffer = np.empty(PIECE_BYTES, dtype=np.uint8)
    try:
        yield buffer
    finally:
        _free.append(buffer)


def pieces(tensor: Tensor) -> Iterator[Array]:
    """The bytes of a tensor, piece by piece, each in the same memory as the one before.

    Raises DamagedFileError: convert.unreadable.
    """
    with _buffer() as buffer:
        for start in range(0, tensor.size, len(buffer)):
            piece = buffer[: min(len(buffer), tensor.size - start)]
            _read(tensor, start, piece)
            yield piece


def _read(tensor: Tensor, start: int, into: Array) -> None:
    """Reads bytes of a tensor. Raises DamagedFileError: convert.unreadable."""
    try:
        with tensor.path.open("rb", buffering=0) as file:
            file.seek(tensor.offset + start)
            _fill(file, into.data)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DamagedFileError(damage("unreadable", file=tensor.path.name, reason=reason)) from None


def _fill(file: Any, view: memoryview) -> None:
    while view:
        got = file.readinto(view)
        if not got:
            raise OSError("it became shorter while it was read")
        view = view[got:]


def content(tensor: Tensor) -> Content:
    """What one pass over a tensor tells. Raises DamagedFileError: convert.unreadable."""
    form = FORMS.get(tensor.dtype)
    bits = form.bits if form else np.dtype(f"u{DTYPE_BYTES[tensor.dtype]}")
    nan = inf = largest = 0
    sample = None
    with _buffer() as scratch:
        for piece in pieces(tensor):
            numbers = piece.view(bits)
            if sample is None:
                sample = as_float32(numbers[:SAMPLE_ELEMENTS].copy(), tensor.dtype)
            if form:
                held = scratch[: len(piece)].view(bits)
                numbers = np.bitwise_and(numbers, form.bits(form.magnitude), out=held)
            highest = int(numbers.max())
            largest = max(largest, highest)
            if form and highest >= form.infinite:
                wrong = numbers[numbers >= form.infinite]
                infinite = 0 if form.inf is None else int((wrong == form.inf).sum())
                inf, nan = inf + infinite, nan + len(wrong) - infinite
    return Content(nan=nan, inf=inf, all_zero=tensor.size > 0 and largest == 0, sample=sample)


def as_float32(numbers: Array, dtype: str) -> Array | None:
    """Numbers of a floating-point type of two bytes or more as float32; None of any other type."""
    if dtype == "BF16":
        return (numbers.astype(np.uint32) << np.uint32(16)).view(np.float32)
    types = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
    if dtype not in types:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite
        return numbers.view(types[dtype]).astype(np.float32)


def to_bfloat16(numbers: Array) -> Array:
    """The bits of float32 numbers rounded to bfloat16, ties to even, as torch rounds."""
    bits = numbers.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype(np.uint16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where two tensors of one shape differ."""

    elements: int
    largest: float | None  # of the differences; None where the type is not compared as numbers


def difference(one: Tensor, other: Tensor) -> Difference:
    """How two tensors of one shape differ. A wider one is rounded to bfloat16 where the other is.

    Raises DamagedFileError: convert.unreadable; ValueError where the types cannot be compared.
    """
    if one.dtype != other.dtype:
        return _rounded_difference(one, other)
    bits = np.dtype(f"u{DTYPE_BYTES[one.dtype]}")
    elements, largest = 0, None
    for left, right in zip(pieces(one), pieces(other), strict=True):
        a, b = left.view(bits), right.view(bits)
        if np.array_equal(a, b):
            continue
        elements += int((a != b).sum())
        x, y = as_float32(a, one.dtype), as_float32(b, one.dtype)
        if x is not None and y is not None:
            largest = max(largest or 0.0, largest_gap(x, y))
    return Difference(elements=elements, largest=largest)


def _rounded_difference(one: Tensor, other: Tensor) -> Difference:
    wide, narrow = (one, other) if one.dtype != "BF16" else (other, one)
    if narrow.dtype != "BF16" or wide.dtype not in ("F32", "F16"):
        raise ValueError(f"{one.dtype} and {other.dtype}")
    elements, largest = 0, None
    wide_type = np.dtype(f"u{DTYPE_BYTES[wide.dtype]}")
    narrow_pieces = pieces(narrow)
    held = np.empty(0, dtype=np.uint16)
    for piece in pieces(wide):
        numbers = as_float32(piece.view(wide_type), wide.dtype)
        assert numbers is not None
        if len(held) < len(numbers):
            # a piece of the narrow tensor holds the numbers of one or two pieces of the wide one
            held = next(narrow_pieces).view(np.uint16)
        part, held = held[: len(numbers)], held[len(numbers) :]
        expected = to_bfloat16(numbers)
        if not np.array_equal(expected, part):
            elements += int((expected != part).sum())
            x, y = as_float32(expected, "BF16"), as_float32(part, "BF16")
            assert x is not None and y is not None
            largest = max(largest or 0.0, largest_gap(x, y))
    return Difference(elements=elements, largest=largest)


def largest_gap(x: Array, y: Array) -> float:
    """The largest difference between two rows of numbers; infinite where none can be told."""
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.abs(x.astype(np.float64) - y.astype(np.float64))
    return float(np.nanmax(gaps)) if not np.isnan(gaps).all() else float("inf")


def read_rows(tensor: Tensor, start: int, number: int) -> Array:
    """The bits of some rows of a matrix, no more than it has.

    Raises DamagedFileError: convert.unreadable.
    """
    rows, columns = min(number, tensor.shape[0] - start), tensor.shape[1]
    size = DTYPE_BYTES[tensor.dtype]
    held = np.empty(rows * columns * size, dtype=np.uint8)
    _read(tensor, start * columns * size, held)
    return held.view(np.dtype(f"u{size}")).reshape(rows, columns)


def head(tensor: Tensor, elements: int) -> Array:
    """The bits of the first numbers of a tensor, all at once.

    Raises DamagedFileError: convert.unreadable.
    """
    size = DTYPE_BYTES[tensor.dtype]
    first = np.empty(min(tensor.size, elements * size), dtype=np.uint8)
    _read(tensor, 0, first)
    return first.view(np.dtype(f"u{size}"))


def sample(tensor: Tensor, elements: int = SAMPLE_ELEMENTS) -> Array | None:
    """The first numbers of a tensor as float32; None of a type that is not compared as numbers.

    Raises DamagedFileError: convert.unreadable.
    """
    return as_float32(head(tensor, elements), tensor.dtype)
