"""A model of the first layers of another: small enough to compare both formats by their logits."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from convert.carried import model_of
from convert.expected import NAMES, expected_shapes
from convert.findings import DamagedFileError
from convert.hf_folder import CONFIG, INDEX, SCALE, HfFolder, read_hf_folder
from convert.quantised import PACKED
from convert.safetensors_file import Tensor
from convert.values import pieces
from planner.errors import UsageError

LAYERS = "num_hidden_layers"
# Layers for multi-token prediction follow the last one: the model is written without them.
NONE_OF = ("num_nextn_predict_layers", "num_mtp_layers")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
LAYER_NUMBERS = "mlp_only_layers"


def write_first_layers(model: Path, target: Path, layers: int | None) -> int:
    """Writes the model, whole or not at all; gives the number of its tensors.

    None: two layers, or as many more as the first sparse one needs.
    Raises UsageError: those of `read_hf_folder`, convert.layers, convert.no_names, convert.damaged,
    convert.target_exists, convert.target_unwritable.
    """
    if os.path.lexists(target):
        raise UsageError("convert.target_exists", path=target)
    folder = read_hf_folder(model)
    config = first_config(folder, layers)
    tensors = _first_tensors(folder, config)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _copy_beside(model, partial)
        (partial / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        _write(partial, tensors)
        partial.rename(target)
    except OSError as error:
        reason = (error.strerror or os.strerror(error.errno or errno.EIO)).lower()
        raise UsageError("convert.target_unwritable", path=target, reason=reason) from None
    except DamagedFileError as error:
        raise UsageError("convert.damaged", path=model, reason=str(error)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(tensors)


def first_config(folder: HfFolder, layers: int | None) -> dict[str, Any]:
    """The config.json of the first layers. Raises UsageError: convert.no_names, convert.layers."""
    model = model_of(folder.path, folder.config)
    if model is None or model.model_type not in NAMES:
        named = folder.config.get("model_type")
        raise UsageError("convert.no_names", model_type=named, known=", ".join(NAMES))
    number = model.num_layers
    least = model.moe_layers.index(True) + 1 if model.is_moe else 1
    layers = max(2, least) if layers is None else layers
    if not least <= layers < number:
        values = {"number": number, "layers": layers, "least": least, "most": number - 1}
        raise UsageError("convert.layers", model=folder.path, **values)
    config = {
        key: value[:layers] if isinstance(value, list) and len(value) == number else value
        for key, value in folder.config.items()
    }
    config[LAYERS] = layers
    config |= {key: 0 for key in NONE_OF if key in config}
    if isinstance(config.get(LAYER_NUMBERS), list):
        config[LAYER_NUMBERS] = [one for one in folder.config[LAYER_NUMBERS] if one < layers]
    return config


def _first_tensors(folder: HfFolder, config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of the first layers. Raises UsageError: convert.damaged."""
    model = model_of(folder.path, config)
    names = expected_shapes(model) if model else None
    assert names is not None, "fewer layers of a model that is known"
    stored = [stored for name in names for stored in _as_stored(name, folder)]
    wanted = [*stored, *(f"{name}{SCALE}" for name in names if f"{name}{SCALE}" in folder.tensors)]
    missing = [name for name in wanted if name not in folder.tensors]
    if missing:
        raise UsageError("convert.damaged", path=folder.path, reason=f"{missing[0]} is missing")
    return {name: folder.tensors[name] for name in wanted}


def _as_stored(name: str, folder: HfFolder) -> list[str]:
    """The names of a tensor in its folder: two where it is packed."""
    packed = [f"{name}{end}" for end in PACKED]
    return packed if all(each in folder.tensors for each in packed) else [name]


def _copy_beside(model: Path, target: Path) -> None:
    """Copies the small files: tokenizer, settings, code of the model."""
    for path in model.iterdir():
        is_weight = path.suffix in WEIGHTS
        if path.is_file() and not is_weight and path.name not in (CONFIG, INDEX):
            shutil.copy(path, target / path.name)


def _write(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors, a file a layer and one for the ends, piece by piece; and their index."""
    files: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        part = name.split(".")[2] if ".layers." in name else "ends"
        files.setdefault(f"model-{part}.safetensors", []).append(tensor)
    for file, held in files.items():
        _write_file(folder / file, held)
    weight_map = {tensor.name: file for file, held in files.items() for tensor in held}
    total = sum(tensor.size for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_file(path: Path, tensors: list[Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        place = [at, at + tensor.size]
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": place,
        }
        at += tensor.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for piece in pieces(tensor):
                file.write(piece.data)
