"""Tensors held against those of the model that they were made from."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from convert.findings import Finding, damage
from convert.safetensors_file import Tensor
from convert.source import Source
from convert.values import Array, difference, head, sample

# A matrix that was fine-tuned stays close to what it was; one that has nothing to do with it has a
# correlation of 0 within 1 / sqrt(numbers).
LEAST_CORRELATION = 0.5
LEAST_ELEMENTS = 1024
HEAD_ELEMENTS = 4096  # by which a tensor is looked for among others


def same_tensors(
    tensors: Mapping[str, Tensor], source: Mapping[str, Tensor], *, ignored: Iterable[str] = ()
) -> Iterator[Finding]:
    """Names and shapes that are not those of the source."""
    unneeded = set(ignored)
    for name in sorted(source.keys() - tensors.keys() - unneeded):
        yield damage("not_of_source", tensor=name)
    for name in sorted(tensors.keys() - source.keys() - unneeded):
        yield damage("more_than_source", tensor=name)
    for name in sorted(tensors.keys() & source.keys()):
        if tensors[name].shape != source[name].shape:
            shapes = {"shape": list(tensors[name].shape), "wanted": list(source[name].shape)}
            yield damage("shape_of_source", tensor=name, **shapes)


def unequal(tensor: Tensor, source: Source) -> Finding | None:
    """What is wrong with a tensor that should equal the source's to the last bit.

    Raises DamagedFileError: convert.unreadable; ValueError where the types cannot be compared.
    """
    found = source.difference(tensor)
    if not found.elements:
        return None
    begin = head(tensor, HEAD_ELEMENTS)
    for other in _siblings(tensor, source):
        alike = np.array_equal(begin, head(other, HEAD_ELEMENTS))
        if alike and not difference(tensor, other).elements:
            return damage("swapped", tensor=tensor.name, other=other.name)
    return damage(
        "differs",
        tensor=tensor.name,
        different=found.elements,
        elements=tensor.elements,
        largest=found.largest,
    )


def unrelated(tensor: Tensor, source: Source) -> Finding | None:
    """What is wrong with a matrix that was trained from the source's.

    Raises DamagedFileError: convert.unreadable.
    """
    if len(tensor.shape) < 2 or tensor.elements < LEAST_ELEMENTS:
        return None
    here, there = sample(tensor), source.sample(tensor.name)
    if here is None or there is None:
        return None
    correlation = _correlation(here, there)
    if correlation is None or correlation >= LEAST_CORRELATION:
        return None
    for other in _siblings(tensor, source):
        values = sample(other, HEAD_ELEMENTS)
        if values is not None and _alike(here[: len(values)], values):
            return damage("swapped", tensor=tensor.name, other=other.name)
    return damage("unrelated", tensor=tensor.name, correlation=correlation)


def _alike(one: Array, other: Array) -> bool:
    return (_correlation(one, other) or 0) >= LEAST_CORRELATION


def _correlation(one: Array, other: Array) -> float | None:
    """The cosine between two samples; None where one is not finite or all zero: said elsewhere."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if not np.isfinite(norms) or norms == 0:
        return None
    return float(a @ b) / norms


def _siblings(tensor: Tensor, source: Source) -> Iterator[Tensor]:
    """Other tensors of the source that this one could be: those of its layer first, and not for
    ever."""
    layer = tensor.name.split(".experts.")[0]
    candidates = (
        other
        for other in source.tensors.values()
        if other.name != tensor.name and (other.shape, other.dtype) == (tensor.shape, tensor.dtype)
    )
    near: list[Tensor] = []
    far: list[Tensor] = []
    for other in candidates if source.may_search() else ():
        (near if other.name.startswith(layer) else far).append(other)
    for other in (*near, *far):
        if not source.may_search():
            return
        yield other
