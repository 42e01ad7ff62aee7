"""LoRA adapters in PEFT's format, and models that they were merged into.

Of each weight that the adapter changes, merged - base must be the adapter's product,
lora_alpha / r * B A (Hu et al. 2021, "LoRA", section 4.1; peft 0.20, tuners/lora/layer.py), as far
as bfloat16 can tell; every other weight must be the base's to the last bit.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.findings import Finding, damage, doubt
from convert.hf_folder import ADAPTER_CONFIG, CONFIG, HfFolder, read_hf_folder
from convert.quantised import rows_at_once
from convert.safetensors_file import Tensor
from convert.source import Source
from convert.values import Array, as_float32, head, read_rows, to_bfloat16
from planner.errors import UsageError

PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
MOST_ALPHA = 1e9  # more is no number that anybody gave
SECOND = ".lora_B."
# An adapter in bfloat16 is rounded twice on its way into the weight: each time by half of 2^-8.
PRODUCT_ERROR = 2**-7
# Of the numbers that the adapter changes, so many may be rounded the other way.
MOST_ROUNDED_OTHERWISE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What an adapter adds, by the weight that it changes."""

    folder: HfFolder
    scaling: dict[str, float]
    pairs: dict[str, tuple[Tensor, Tensor]]  # A (r x in) and B (out x r)
    findings: tuple[Finding, ...]
    others: tuple[str, ...]  # tensors that are no pair: whole modules that were trained


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter in PEFT's format and no model."""
    return (path / ADAPTER_CONFIG).exists() and not (path / CONFIG).exists()


def read_adapter(path: Path) -> Adapter:
    """The adapter of a folder in PEFT's format; no weights are read.

    Raises UsageError: those of `read_hf_folder`, convert.adapter_kind.
    """
    folder = read_hf_folder(path, ADAPTER_CONFIG)
    alpha = folder.config.get("lora_alpha")
    for field in ("use_dora", "alpha_pattern", "rank_pattern", "fan_in_fan_out"):
        if folder.config.get(field):
            raise UsageError("convert.adapter_kind", path=path, field=field)
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if alpha is None or not is_number or not abs(alpha) <= MOST_ALPHA:
        raise UsageError("convert.adapter_kind", path=path, field="lora_alpha")
    names = folder.tensors.keys()
    modules = {name[: -len(A)] for name in names if name.endswith((A, B))}
    pairs, findings = {}, []
    for module in sorted(modules):
        missing = [name for name in (module + A, module + B) if name not in names]
        if missing:
            there = module + (B if missing[0].endswith(A) else A)
            findings.append(damage("half_adapter", there=there, missing=missing[0]))
            continue
        a, b = folder.tensors[module + A], folder.tensors[module + B]
        if not (len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1] > 0):
            shapes = {"one": list(a.shape), "other": list(b.shape)}
            findings.append(damage("no_product", module=module, **shapes))
            continue
        pairs[f"{module.removeprefix(PREFIX)}.weight"] = (a, b)
    return Adapter(
        folder=folder,
        scaling={
            weight: _scaling(folder.config, float(alpha), a.shape[0])
            for weight, (a, _) in pairs.items()
        },
        pairs=pairs,
        findings=(*folder.findings, *findings),
        others=tuple(sorted(name for name in names if not name.endswith((A, B)))),
    )


def _scaling(config: dict[str, Any], alpha: float, rank: int) -> float:
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def zeros_of_adapters(findings: list[Finding], looked_at: list[str]) -> Iterator[Finding]:
    """Findings about tensors that were looked at, but those about second matrices of adapters that
    are zeros: they start so, and stay so where no token came. All of them are doubted, once."""

    def is_second(name: str) -> bool:
        return SECOND in name

    zeros = [
        finding
        for finding in findings
        if finding.id == "convert.all_zero" and is_second(finding.values["tensor"])
    ]
    yield from (finding for finding in findings if finding not in zeros)
    if zeros and len(zeros) == len([name for name in looked_at if is_second(name)]):
        yield doubt("adapter_not_trained", matrices=len(zeros))


def misplaced(adapter: Adapter, base: dict[str, Tensor]) -> Iterator[Finding]:
    """Parts of an adapter that do not fit the base."""
    for weight, (a, b) in adapter.pairs.items():
        if weight not in base:
            yield damage("no_module", module=weight.removesuffix(".weight"))
            continue
        shape = (b.shape[0], a.shape[1])
        if shape != base[weight].shape:
            values = {"shape": list(shape), "wanted": list(base[weight].shape)}
            yield damage("adapter_shape", module=weight.removesuffix(".weight"), **values)


def not_merged(merged: Tensor, base: Source, adapter: Adapter, misfits: set[str]) -> Finding | None:
    """What is wrong with a weight of a merged model.

    Raises DamagedFileError: convert.unreadable; ValueError where the types cannot be compared.
    """
    if merged.name in misfits:
        return None
    pair = adapter.pairs.get(merged.name)
    if pair is None:
        if base.difference(merged).elements:
            return damage("changed_without_adapter", tensor=merged.name)
        return None
    if merged.dtype != "BF16":
        raise ValueError(f"{merged.dtype} and {base.tensors[merged.name].dtype}, adapted")
    a, b = (_matrix(each) for each in pair)
    rows = rows_at_once(merged, base.block[0])
    counted = _Counted()
    for start in range(0, merged.shape[0], rows):
        with np.errstate(over="ignore", invalid="ignore"):  # then it is not the product either
            product = adapter.scaling[merged.name] * (b[start : start + rows] @ a)
        held, before = read_rows(merged, start, rows), base.rows(merged.name, start, rows)
        counted.add(held, before, product)
    if not counted.off and counted.otherwise <= MOST_ROUNDED_OTHERWISE * counted.changed:
        return None
    return damage(
        "not_merged",
        tensor=merged.name,
        different=max(counted.off, counted.otherwise),
        elements=merged.elements,
        largest=counted.largest,
    )


@dataclass(slots=True)
class _Counted:
    """How the numbers of a merged weight compare with base + product."""

    changed: int = 0  # the product moves them
    otherwise: int = 0  # they are not exactly what base + product rounds to
    off: int = 0  # they are farther off than rounding explains
    largest: float = 0.0

    def add(self, merged: Array, base: Array, product: Array) -> None:
        """Counts a block of rows."""
        bits = to_bfloat16(_float32(base) + product)
        expected, held = _float32(bits), _float32(merged)
        with np.errstate(over="ignore", invalid="ignore"):
            gap = np.abs(held - expected)
            # One step of bfloat16 is 2^-7 of a number at most.
            tolerance = 2**-7 * np.maximum(np.abs(held), np.abs(expected))
            beyond = ~(gap <= tolerance + PRODUCT_ERROR * np.abs(product))
        self.changed += int((bits != base).sum())
        self.otherwise += int((bits != merged).sum())
        self.off += int(beyond.sum())
        if gap.size:
            self.largest = max(self.largest, float(np.nan_to_num(gap, nan=np.inf).max()))


def _float32(bits: Array) -> Array:
    numbers = as_float32(bits.reshape(-1), "BF16")
    assert numbers is not None
    return numbers.reshape(bits.shape)


def _matrix(tensor: Tensor) -> Array:
    """A whole tensor as float32: the matrices of an adapter are small."""
    numbers = as_float32(head(tensor, tensor.elements), tensor.dtype)
    if numbers is None:
        raise ValueError(f"an adapter in {tensor.dtype}")
    return numbers.reshape(tensor.shape)
