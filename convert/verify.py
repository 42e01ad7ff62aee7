"""Checks a checkpoint from its files alone: without a GPU, without torch, piece by piece."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from convert.adapters import Adapter, misplaced, not_merged, read_adapter, zeros_of_adapters
from convert.carried import carried_files, model_of, other_model
from convert.comparison import unequal, unrelated
from convert.expected import mtp_prefixes
from convert.findings import DamagedFileError, Finding, Verification, damage
from convert.hf_folder import CONFIG, HfFolder, read_config, read_hf_folder
from convert.initial import can_tell, initial_deviations, is_drawn, left_at_start
from convert.names import check_names
from convert.safetensors_file import Tensor
from convert.source import Source, source_of
from convert.torch_dist import TorchDist, read_torch_dist, stored_numbers
from convert.values import content, difference
from planner.model_spec import ModelSpec
from planner.parameters import model_parameters

WORKERS = 4  # each holds a piece or two: reading and looking overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What looking at one tensor gave."""

    findings: list[Finding]
    is_drawn: bool = False
    is_large: bool = False  # enough to tell whether it is drawn
    is_equal: bool = False  # to the source
    not_compared: str = ""  # the types that cannot be


def verify_hf(
    path: Path,
    *,
    source: Path | None = None,
    trained: bool = False,
    adapter: Path | None = None,
) -> Verification:
    """What is wrong with a checkpoint in Hugging Face's format.

    `source` is the model that it was made from; without training in between the two are compared
    to the last bit, with training matrix by matrix for likeness, and with the adapter that was
    merged into it by their difference.
    Raises UsageError: those of `read_hf_folder` and `read_adapter`.
    """
    folder = read_hf_folder(path)
    origin = read_hf_folder(source) if source else None
    result = Verification(checkpoint=str(path), kind="hugging-face")
    result.findings += folder.findings
    result.checks.append("files: lengths, headers and the index")
    check_names(folder, origin, result)
    result.findings += carried_files(path, source)
    result.checks.append("config, tokenizer and settings of generation")
    if origin is not None:
        result.findings += other_model(folder, origin)
        damaged = (finding.message for finding in origin.findings)
        result.findings += (damage("bad_source", source=source, reason=why) for why in damaged)
    merged = read_adapter(adapter) if adapter else None
    _numbers(folder, origin, result, trained=trained, adapter=merged)
    _tied(folder, result)
    return result


def verify_torch_dist(path: Path, *, source: Path | None = None) -> Verification:
    """What is wrong with a checkpoint in Megatron-Core's format.

    `source` holds the config.json of its model.
    Raises UsageError: convert.no_folder, convert.no_config.
    """
    checkpoint = read_torch_dist(path)
    result = Verification(checkpoint=str(path), kind="torch_dist")
    result.findings += checkpoint.findings
    result.checks.append("the index: every part of every tensor has its place in a file")
    weights = [one for one in checkpoint.tensors.values() if one.is_parameter]
    result.tensors = len(weights)
    result.parameters = sum(prod(one.shape) for one in weights)
    if weights and all(one.is_adapter for one in weights):
        result.not_checked.append("parameters: it holds an adapter alone, and no model")
    elif source is None:
        result.not_checked.append("parameters: give --source, the model, to have them counted")
    else:
        _count(result, checkpoint, source)
    broken = {finding.values.get("file") for finding in checkpoint.findings}
    pieces = list(_stored(checkpoint, broken, result))
    result.bytes_read = sum(piece.size for piece in pieces)
    looks = _look_at_all(pieces, lambda piece: _look(piece, ()))
    result.findings += zeros_of_adapters(
        [finding for look in looks for finding in look.findings], [piece.name for piece in pieces]
    )
    result.checks.append("numbers: NaN, infinity, nothing but zeros")
    return result


def verify_adapter(path: Path, *, source: Path | None = None) -> Verification:
    """What is wrong with an adapter in PEFT's format; `source` is the model that it belongs to.

    Raises UsageError: those of `read_adapter` and `read_hf_folder`.
    """
    adapter = read_adapter(path)
    origin = read_hf_folder(source) if source else None
    tensors = [*adapter.folder.tensors.values()]
    result = Verification(checkpoint=str(path), kind="adapter")
    result.findings += adapter.findings
    if not adapter.pairs:
        result.findings.append(damage("no_pairs"))
    result.checks.append(f"files, and both matrices of {len(adapter.pairs)} weights")
    result.not_checked += (f"{name} of the adapter" for name in adapter.others)
    if origin is None:
        result.not_checked.append("that it fits: give --source, the model, to have shapes compared")
    else:
        result.findings += misplaced(adapter, origin.tensors)
        result.checks.append("names and shapes: those of the source")
    looks = _look_at_all(tensors, lambda tensor: _look(tensor, ()))
    result.findings += zeros_of_adapters(
        [finding for look in looks for finding in look.findings], [each.name for each in tensors]
    )
    result.checks.append("numbers: NaN, infinity, nothing but zeros")
    result.tensors = len(tensors)
    result.parameters = sum(tensor.elements for tensor in tensors)
    result.bytes_read = sum(tensor.size for tensor in tensors)
    return result


# -- Hugging Face's format ---------------------------------------------------------------------


def _numbers(
    folder: HfFolder,
    origin: HfFolder | None,
    result: Verification,
    *,
    trained: bool,
    adapter: Adapter | None,
) -> None:
    """Looks at the numbers of every tensor, and at those of the source beside them."""
    deviations = initial_deviations(folder.config)
    source = source_of(origin)
    misfits: set[str] = set()
    if adapter is not None:
        found = list(misplaced(adapter, source.tensors))
        misfits = {f"{each.values['module']}.weight" for each in found}
        result.findings += (*adapter.findings, *found)
        result.not_checked += (f"{name} of the adapter" for name in adapter.others)

    def compare(tensor: Tensor) -> Finding | None:
        if adapter is not None:
            return not_merged(tensor, source, adapter, misfits)
        return unrelated(tensor, source) if trained else unequal(tensor, source)

    def look(tensor: Tensor) -> _Look:
        seen = _look(tensor, deviations)
        if source.shape(tensor.name) != tensor.shape or seen.findings:
            return seen
        return _beside(seen, tensor, source, compare, exact=not trained and adapter is None)

    tensors = sorted(folder.tensors.values(), key=lambda each: (each.path, each.offset))
    looks = _look_at_all(tensors, look)
    result.tensors = len(tensors)
    result.parameters = sum(tensor.elements for tensor in tensors)
    result.bytes_read = sum(tensor.size for tensor in tensors)
    result.findings += (finding for one in looks for finding in one.findings)
    result.checks.append("numbers: NaN, infinity, nothing but zeros")
    drawn = [tensor.name for tensor, one in zip(tensors, looks, strict=True) if one.is_drawn]
    if origin is None:
        result.findings += left_at_start(drawn, sum(one.is_large for one in looks))
        result.checks.append("matrices that were never loaded")
        result.not_checked.append("that experts are in their places: give --source to compare")
        return
    _compared(tensors, looks, source, result, trained=trained, adapter=adapter)


def _compared(
    tensors: list[Tensor],
    looks: list[_Look],
    source: Source,
    result: Verification,
    *,
    trained: bool,
    adapter: Adapter | None,
) -> None:
    """Says how the tensors compare with the source's."""
    beside = [one.name for one in tensors if source.shape(one.name) is not None]
    equal = sum(one.is_equal for one in looks)
    result.bytes_read += sum(map(source.size, beside))
    for types, number in Counter(one.not_compared for one in looks if one.not_compared).items():
        result.not_checked.append(f"{number} tensors against the source: {types}")
    if adapter is not None:
        result.checks.append(
            f"merged - base beside the adapter's product in {len(adapter.pairs)} weights;"
            f" {equal} of {len(beside)} tensors were not changed"
        )
    elif trained:
        result.checks.append(
            f"matrices beside the source's; {equal} of {len(beside)} tensors were not changed"
        )
        if beside and equal == len(beside):
            result.findings.append(damage("nothing_trained", tensors=equal))
    else:
        result.checks.append(f"{equal} of {len(beside)} tensors equal the source to the last bit")


def _look(tensor: Tensor, deviations: Iterable[float]) -> _Look:
    """What the numbers of a tensor alone tell."""
    try:
        held = content(tensor)
    except DamagedFileError as error:
        return _Look(findings=[error.finding])
    findings = []
    if held.nan or held.inf:
        values = {"nan": held.nan, "inf": held.inf, "elements": tensor.elements}
        findings.append(damage("not_finite", tensor=tensor.name, **values))
    if held.all_zero and len(tensor.shape) > 1:
        findings.append(damage("all_zero", tensor=tensor.name))
    if len(tensor.shape) < 2 or held.sample is None or not can_tell(held.sample):
        return _Look(findings=findings)
    drawn = is_drawn(held.sample, deviations)
    return _Look(findings=findings, is_drawn=drawn, is_large=True)


def _beside(
    seen: _Look,
    tensor: Tensor,
    source: Source,
    compare: Callable[[Tensor], Finding | None],
    *,
    exact: bool,
) -> _Look:
    """What a tensor beside that of the source tells; `exact`: it is compared to the last bit."""
    try:
        found = compare(tensor)
        is_equal = found is None and (exact or not source.difference(tensor).elements)
    except DamagedFileError as error:
        return replace(seen, findings=[error.finding])
    except ValueError as error:
        return replace(seen, not_compared=str(error))
    return replace(seen, findings=[found] if found else [], is_equal=is_equal)


def _tied(folder: HfFolder, result: Verification) -> None:
    """Weights that must be the same: they are, to the last bit."""
    model, tensors = model_of(folder.path, folder.config), folder.tensors
    pairs = []
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    if model is not None and model.tie_word_embeddings:
        pairs.append((head, embedding))
    for prefix in mtp_prefixes(model) if model else ():
        pairs += [
            (f"{prefix}embed_tokens.weight", embedding),
            (f"{prefix}shared_head.head.weight", head),
        ]
    for name, other in pairs:
        one, two = tensors.get(name), tensors.get(other)
        if one is None or two is None or (one.shape, one.dtype) != (two.shape, two.dtype):
            continue
        different = difference(one, two).elements
        if different:
            values = {"different": different, "elements": one.elements}
            result.findings.append(damage("not_tied", tensor=name, other=other, **values))
    if pairs:
        result.checks.append("weights that are tied")


# -- Megatron-Core's format --------------------------------------------------------------------


def _stored(checkpoint: TorchDist, broken: set[object], result: Verification) -> Iterator[Tensor]:
    """Every piece of every weight that can be read."""
    for stored in checkpoint.tensors.values():
        files = {piece.file for piece in stored.pieces.values()}
        if not stored.is_parameter or files & broken:
            continue
        if stored.dtype is None:
            result.not_checked.append(f"numbers of {stored.name}: of a type that is not known")
            continue
        try:
            yield from stored_numbers(checkpoint.path, stored)
        except DamagedFileError as error:
            result.findings.append(error.finding)


def _count(result: Verification, checkpoint: TorchDist, source: Path) -> None:
    """Holds the number of parameters against the model's."""
    model = model_of(source, read_config(source / CONFIG))
    if not checkpoint.tensors:
        return
    if model is None:
        result.not_checked.append("parameters: the model's config.json is not understood")
        return
    has_mtp = any(name.startswith("mtp.") for name in checkpoint.tensors)
    layers = model.mtp_num_layers if has_mtp else 0
    wanted = sum(model_parameters(model, mtp_num_layers=layers).values())
    padding = _padded_rows(checkpoint, model) * model.hidden_size
    if result.parameters - padding != wanted:
        values = {"parameters": result.parameters - padding, "wanted": wanted}
        result.findings.append(
            damage("other_count", **values, model_type=model.model_type, source=source)
        )
    result.checks.append("the number of parameters")


def _padded_rows(checkpoint: TorchDist, model: ModelSpec) -> int:
    """Rows by which vocabularies are longer than the model's: TP pads them."""
    tables = ("embedding.word_embeddings.weight", "output_layer.weight")
    rows = (checkpoint.tensors[name].shape[0] for name in tables if name in checkpoint.tensors)
    return sum(max(0, each - model.vocab_size) for each in rows)


def _look_at_all(tensors: list[Tensor], look: Callable[[Tensor], _Look]) -> list[_Look]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(look, tensors))
