"""A checkpoint in Hugging Face's format: its config, and the tensors that its index leads to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.findings import DamagedFileError, Finding, damage
from convert.safetensors_file import Tensor, read_header
from planner.errors import UsageError
from planner.yaml_files import one_line

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SCALE = "_scale_inv"  # ends the name of what stands beside a weight in fp8
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HfFolder:
    """What a folder holds. `tensors` are those that a loader finds, `lost` those that the index
    leads to where they cannot be read; `findings` say what is wrong with its files."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    lost: frozenset[str]
    findings: tuple[Finding, ...]


def read_hf_folder(path: Path, config_name: str = CONFIG) -> HfFolder:
    """The headers and the config of a folder; no weights are read.

    Raises UsageError: convert.no_folder, convert.no_weights, convert.no_config.
    """
    if not path.is_dir():
        raise UsageError("convert.no_folder", path=path)
    files = sorted(path.glob("*.safetensors"))
    if not files and not (path / INDEX).exists():
        raise UsageError("convert.no_weights", path=path)
    findings: list[Finding] = []
    held = _read_files(files, findings)
    weight_map = _weight_map(path, held, findings)
    tensors = _follow(weight_map, {file.name for file in files}, held, findings)
    return HfFolder(
        path=path,
        config=read_config(path / config_name),
        tensors=tensors,
        lost=frozenset(weight_map.keys() - tensors.keys()),
        findings=tuple(findings),
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ValueError with the reason, and OSError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(one_line(error)) from None
    if not isinstance(content, dict):
        raise ValueError("it is no object")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """The object of a config file. Raises UsageError: convert.no_config."""
    try:
        return read_json_object(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    except ValueError as error:
        reason = one_line(error)
    raise UsageError("convert.no_config", path=path, reason=reason)


def _read_files(files: list[Path], findings: list[Finding]) -> dict[str, dict[str, Tensor]]:
    """The tensors of every file that can be read, by the file's name."""
    held = {}
    for file in files:
        try:
            held[file.name] = {tensor.name: tensor for tensor in read_header(file)}
        except DamagedFileError as error:
            findings.append(error.finding)
    return held


def _weight_map(
    path: Path, held: dict[str, dict[str, Tensor]], findings: list[Finding]
) -> dict[str, str]:
    """The file of each tensor, as the index says, or as the files do where there is none."""
    as_held = {name: file for file, tensors in held.items() for name in tensors}
    if not (path / INDEX).exists():
        files = list(path.glob("*.safetensors"))
        if [file.name for file in files] not in ([SINGLE], [ADAPTER]):
            findings.append(damage("no_index", files=len(files)))
        return as_held
    try:
        weight_map = read_json_object(path / INDEX)["weight_map"]
        if not all(isinstance(file, str) for file in weight_map.values()):
            raise ValueError("weight_map does not name files")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        findings.append(damage("bad_index", reason=one_line(error)))
        return as_held
    return dict(weight_map)


def _follow(
    weight_map: dict[str, str],
    files: set[str],
    held: dict[str, dict[str, Tensor]],
    findings: list[Finding],
) -> dict[str, Tensor]:
    """The tensors that an index names, each from the file that it names."""
    for file in sorted(set(weight_map.values()) - files):
        findings.append(damage("missing_file", file=file))
    for file in sorted(set(held) - set(weight_map.values())):
        if held[file]:
            findings.append(damage("stray_file", file=file))
        else:
            findings.append(damage("empty", file=file))
    tensors = {}
    for name, file in weight_map.items():
        if name in held.get(file, {}):
            tensors[name] = held[file][name]
        elif file in held:
            findings.append(damage("index_lies", tensor=name, file=file))
    for file, names in held.items():
        for name in names:
            if weight_map.get(name) != file and file in weight_map.values():
                findings.append(damage("not_in_index", tensor=name, file=file))
    return tensors
