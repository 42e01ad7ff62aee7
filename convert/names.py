"""Names, shapes and types of the tensors of a checkpoint, held against config.json and a source."""

from collections.abc import Iterator

from convert.carried import model_of, spoiled_config
from convert.comparison import same_tensors
from convert.expected import NAMES, expected_shapes, mtp_prefixes
from convert.findings import Finding, Verification, damage
from convert.hf_folder import SCALE, HfFolder
from convert.quantised import PACKED
from convert.safetensors_file import Tensor
from convert.source import source_of
from planner.model_spec import ModelSpec

# What config.json calls the types, and what safetensors does.
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}

# What loaders make themselves, whether a file holds it or not.
MADE_ANEW = "rotary_emb.inv_freq"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def check_names(folder: HfFolder, origin: HfFolder | None, result: Verification) -> None:
    """Holds names, shapes and types against config.json, and against the source."""
    model = model_of(folder.path, folder.config)
    expected = expected_shapes(model) if model else None
    if model is not None and expected is not None:
        result.findings += _unexpected(folder, model, expected)
        result.checks.append(f"names and shapes: those of the {model.model_type} of config.json")
    elif spoiled := spoiled_config(folder.path, folder.config):
        result.findings.append(spoiled)
    else:
        named = folder.config.get("model_type")
        result.not_checked.append(f"names of tensors: those of {named} models are not known")
    if origin is not None:
        known = {finding.values.get("tensor") for finding in result.findings}
        unneeded = _quantised(origin.tensors) | _packed(origin.tensors)
        unneeded |= _not_needed(folder) | _not_needed(origin)
        found = same_tensors(folder.tensors, origin.tensors, ignored=unneeded | folder.lost)
        result.findings += (each for each in found if each.values["tensor"] not in known)
        result.checks.append("names and shapes: those of the source")
    result.findings += _types(folder, origin)


def _not_needed(folder: HfFolder) -> set[str]:
    """Tensors that a folder may hold or not: a head that is tied, which must then equal the
    embedding, and what loaders make themselves."""
    tied = {HEAD} if folder.config.get("tie_word_embeddings") is True else set()
    return tied | {name for name in folder.tensors if name.endswith(MADE_ANEW)}


def _unexpected(
    folder: HfFolder, model: ModelSpec, expected: dict[str, tuple[int, ...]]
) -> Iterator[Finding]:
    prefixes = tuple(mtp_prefixes(model))
    if model.tie_word_embeddings and HEAD in folder.tensors:
        expected = {**expected, HEAD: expected[EMBEDDING]}
    there = {name for name in folder.tensors if not name.endswith(MADE_ANEW)}
    there -= _quantised(folder.tensors)
    held, packed = source_of(folder), _packed(folder.tensors)
    missing = expected.keys() - there - packed - folder.lost
    of_mtp = {name for name in missing if name.startswith(prefixes)} if prefixes else set()
    if of_mtp and not any(name.startswith(prefixes) for name in there):
        yield damage("missing_mtp", layers=len(prefixes), tensors=len(of_mtp))
        missing -= of_mtp
    for name in sorted(missing):
        yield damage("missing_tensor", tensor=name, shape=list(expected[name]))
    for name in sorted(there - expected.keys()):
        values = {"tensor": name, "shape": list(folder.tensors[name].shape)}
        yield damage("stray_tensor", **values, model_type=model.model_type)
    for name in sorted((there | packed) & expected.keys()):
        shape = held.shape(name)
        if shape != expected[name]:
            found = list(shape) if shape else "packed in no shape"
            yield damage("shape", tensor=name, shape=found, wanted=list(expected[name]))


def _quantised(tensors: dict[str, Tensor]) -> set[str]:
    """Scales of quantised weights, and weights that are packed with theirs."""
    scales = {name for name in tensors if name.endswith(SCALE)}
    scales = {name for name in scales if name[: -len(SCALE)] in tensors}
    return scales | {name for name in tensors if name.endswith(PACKED)}


def _packed(tensors: dict[str, Tensor]) -> set[str]:
    """Weights that are there packed, under two other names."""
    blocks, scales = PACKED
    names = {name[: -len(blocks)] for name in tensors if name.endswith(blocks)}
    return {name for name in names if f"{name}{scales}" in tensors}


def _types(folder: HfFolder, origin: HfFolder | None) -> Iterator[Finding]:
    """Matrices of another type than config.json says; quantised ones are what they are.

    One row is no matrix: biases of experts, which stay in fp32, have that shape too. A wider type
    may be the model's own: that of the source's tensor, or of a router that stays in fp32.
    """
    named = folder.config.get("dtype", folder.config.get("torch_dtype"))
    wanted = DTYPES.get(str(named))
    if wanted is None or "quantization_config" in folder.config:
        return
    names = NAMES.get(str(folder.config.get("model_type")))
    router = f".{names.block}.{names.router}.weight" if names and names.fp32_router else None
    source = origin.tensors if origin else {}
    for tensor in folder.tensors.values():
        is_matrix = len(tensor.shape) > 1 and tensor.shape[0] > 1
        if not is_matrix or tensor.dtype == wanted:
            continue
        as_source = tensor.name in source and source[tensor.name].dtype == tensor.dtype
        is_router = router is not None and tensor.name.endswith(router)
        if tensor.dtype != "F32" or not (as_source or is_router):
            yield damage("dtype", tensor=tensor.name, dtype=tensor.dtype, wanted=wanted)
