"""A checkpoint in Megatron-Core's torch_dist format: its index, and where each tensor's bytes lie.

Read without torch. The index is a pickle of torch.distributed.checkpoint's Metadata (torch 2.13,
torch/distributed/checkpoint/metadata.py); no class of it is imported or called, so that a
checkpoint from anywhere can be looked at. Each piece of a tensor is an archive of torch.save, whose
numbers lie uncompressed in it.
"""

import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import RawIOBase
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from convert.findings import DamagedFileError, Finding, damage
from convert.hf_folder import read_json_object
from convert.safetensors_file import DTYPE_BYTES, Tensor
from planner.errors import UsageError
from planner.yaml_files import one_line

TRACKER = "latest_checkpointed_iteration.txt"
INDEX = ".metadata"
BACKEND = "metadata.json"
COMMON = "common.pt"
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}
MOST_CELLS = 10**8
LONGEST_NAME = 255  # of a file, as Linux has them
LOCAL_HEADER_BYTES = 30  # of a zip entry, before its name (PKZIP APPNOTE 4.3.7)
# What is not weights: states of the optimizer (megatron-core 0.16.1, optimizer/distrib_optimizer.py
# and optimizer/optimizer.py name them so), and counters and buffers of the router.
NOT_PARAMETERS = ("optimizer.", "chained_", "rng_state", "rerun_state")
ADAPTERS = (".lora_A.", ".lora_B.")  # of peft 0.20, in the names of what it adds
BUFFERS = ("expert_bias", "local_tokens_per_expert", "_extra_state")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a tensor, or an object, as one file holds it."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor of the index, with the pieces that were written of it, by where they begin."""

    name: str
    dtype: str | None  # of safetensors; None for one that it does not have
    shape: tuple[int, ...]
    chunks: dict[tuple[int, ...], tuple[int, ...]]
    pieces: dict[tuple[int, ...], Piece]

    @property
    def is_parameter(self) -> bool:
        """Whether the model's parameters count it."""
        is_state = self.name.startswith(NOT_PARAMETERS)
        return not is_state and self.name.rsplit(".", 1)[-1] not in BUFFERS

    @property
    def is_adapter(self) -> bool:
        """Whether it belongs to what LoRA adds."""
        return any(each in self.name for each in ADAPTERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchDist:
    """The newest checkpoint of a folder."""

    path: Path
    tensors: dict[str, Stored]
    findings: tuple[Finding, ...]


def is_torch_dist(path: Path) -> bool:
    """Whether a folder looks like one that Megatron-Core wrote, whole or not."""
    return (path / TRACKER).exists() or any(path.glob("iter_*")) or _is_iteration(path)


def _is_iteration(path: Path) -> bool:
    """Whether a folder holds the files of one checkpoint itself."""
    return any((path / name).exists() for name in (INDEX, BACKEND, COMMON))


def read_torch_dist(path: Path) -> TorchDist:
    """The index of the newest checkpoint of a folder, held against its files; no weights are read.

    Raises UsageError: convert.no_folder.
    """
    if not path.is_dir():
        raise UsageError("convert.no_folder", path=path)
    findings: list[Finding] = []
    folder = path if _is_iteration(path) else _newest(path, findings)
    if folder is None:
        return TorchDist(path=path, tensors={}, findings=tuple(findings))
    findings += _whole(folder)
    tensors: dict[str, Stored] = {}
    objects: list[Piece] = []
    if (folder / INDEX).exists():
        try:
            tensors, objects = _read_index(folder / INDEX)
        except Exception as error:  # a pickle that is spoiled can raise anything
            findings.append(damage("bad_file", file=INDEX, reason=one_line(error)))
        else:
            findings += _files(folder, tensors, objects)
            findings += _chunks(tensors)
            if not any(one.is_parameter for one in tensors.values()):
                findings.append(damage("empty", file=INDEX))
    return TorchDist(path=folder, tensors=tensors, findings=tuple(findings))


_MALFORMED = (KeyError, AttributeError, ValueError, TypeError, IndexError)


def _newest(path: Path, findings: list[Finding]) -> Path | None:
    """The folder of the iteration that the tracker names."""
    try:
        iteration = int((path / TRACKER).read_text(encoding="utf-8"))
    except OSError:
        findings.append(damage("torn", file=TRACKER))
        return None
    except ValueError as error:
        findings.append(damage("bad_file", file=TRACKER, reason=one_line(error)))
        return None
    folder = path / f"iter_{iteration:07d}"
    if not (len(folder.name) <= LONGEST_NAME and folder.is_dir()):
        findings.append(damage("torn", file=folder.name[:LONGEST_NAME]))
        return None
    return folder


def _whole(folder: Path) -> Iterator[Finding]:
    """What is missing of the files that are written beside the tensors."""
    for name in (INDEX, BACKEND, COMMON):
        if not (folder / name).exists():
            yield damage("torn", file=name)
    if (folder / BACKEND).exists():
        try:
            backend = read_json_object(folder / BACKEND).get("sharded_backend")
        except (OSError, ValueError) as error:
            yield damage("bad_file", file=BACKEND, reason=one_line(error))
        else:
            if backend != "torch_dist":
                yield damage("other_backend", backend=backend)
    if (folder / COMMON).exists() and not zipfile.is_zipfile(folder / COMMON):
        yield damage("bad_file", file=COMMON, reason="it is cut short: its end is missing")


class _Record:
    """An object of the pickle: what it was made with and its state, and nothing of its class."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Record,), {"module": module})


def _read_index(path: Path) -> tuple[dict[str, Stored], list[Piece]]:
    """The tensors of an index with their pieces, and where its other objects lie."""
    with path.open("rb") as file:
        index = _Unpickler(file).load()
    held: dict[str, dict[tuple[int, ...], Piece]] = {}
    for key, info in index.storage_data.items():
        piece = Piece(file=info.relative_path, offset=info.offset, length=info.length)
        begin = getattr(key, "offset", None)
        held.setdefault(key.fqn, {})[_sizes(begin) if begin is not None else ()] = piece
    tensors: dict[str, Stored] = {}
    objects: list[Piece] = []
    for name, kept in index.state_dict_metadata.items():
        if type(kept).__name__ != "TensorStorageMetadata":
            objects += held.get(name, {}).values()
            continue
        kind = kept.properties.state[0].__name__
        tensors[name] = Stored(
            name=name,
            dtype=DTYPES.get(kind),
            shape=_sizes(kept.size),
            chunks={_sizes(chunk.offsets): _sizes(chunk.sizes) for chunk in kept.chunks},
            pieces=held.get(name, {}),
        )
    return tensors, objects


def _sizes(size: Any) -> tuple[int, ...]:
    """The numbers of a pickled torch.Size."""
    return tuple(int(number) for number in size.arguments[0])


def _files(folder: Path, tensors: dict[str, Stored], objects: list[Piece]) -> Iterator[Finding]:
    """Files that the index names and that are missing, too short or too long; files that it does
    not name."""
    ends: dict[str, int] = {}
    for piece in [*objects, *(each for one in tensors.values() for each in one.pieces.values())]:
        ends[piece.file] = max(ends.get(piece.file, 0), piece.offset + piece.length)
    there = {file.name: file.stat().st_size for file in folder.glob("*.distcp")}
    for name, end in sorted(ends.items()):
        if name not in there:
            yield damage("missing_file", file=name)
        elif there[name] < end:
            yield damage("cut_short", file=name, promised=end, actual=there[name])
    for name in sorted(there.keys() - ends.keys()):
        yield damage("stray_file", file=name)


def _chunks(tensors: dict[str, Stored]) -> Iterator[Finding]:
    """Tensors of which parts were never written, or more than once."""
    for tensor in tensors.values():
        covered = sum(prod(sizes) for sizes in tensor.chunks.values())
        if min(tensor.shape, default=0) < 0 or not all(
            _inside(begin, sizes, tensor.shape) for begin, sizes in tensor.chunks.items()
        ):
            yield damage("outside", tensor=tensor.name, shape=list(tensor.shape))
        elif covered != prod(tensor.shape):
            yield damage(
                "not_covered", tensor=tensor.name, covered=covered, elements=prod(tensor.shape)
            )
        elif _overlap(tensor.chunks):
            yield damage("overlap", tensor=tensor.name)
        for begin in sorted(tensor.chunks.keys() - tensor.pieces.keys()):
            yield damage("not_stored", tensor=tensor.name, begin=list(begin))


def _inside(begin: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a part lies in a tensor."""
    return len(begin) == len(sizes) == len(shape) and all(
        min(start, size) >= 0 and start + size <= whole
        for start, size, whole in zip(begin, sizes, shape, strict=True)
    )


def _overlap(chunks: dict[tuple[int, ...], tuple[int, ...]]) -> bool:
    """Whether two parts share a number: counted in the cells that all their edges make."""
    if len(chunks) < 2:
        return False
    ends = {
        begin: tuple(map(sum, zip(begin, sizes, strict=True))) for begin, sizes in chunks.items()
    }
    edges = [sorted(set(axis)) for axis in zip(*chunks, *ends.values(), strict=True)]
    places = [{edge: place for place, edge in enumerate(axis)} for axis in edges]
    if prod(len(axis) - 1 for axis in edges) > MOST_CELLS:
        return False  # no layout of parts is that irregular
    cells = np.zeros([len(axis) - 1 for axis in edges], dtype=np.uint8)
    for begin, end in ends.items():
        part = tuple(slice(at[a], at[b]) for at, a, b in zip(places, begin, end, strict=True))
        if cells[part].any():
            return True
        cells[part] = 1
    return False


class _Window(RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, file: Any, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, (0, self._at, self._length)[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._length - self._at)
        self._file.seek(self._start + self._at)
        data: bytes = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def stored_numbers(folder: Path, stored: Stored) -> Iterator[Tensor]:
    """Where the numbers of each piece of a tensor lie.

    Raises DamagedFileError: convert.bad_archive.
    """
    assert stored.dtype is not None
    for begin, piece in stored.pieces.items():
        shape = stored.chunks.get(begin, ())
        try:
            offset, size = _numbers(folder / piece.file, piece)
            promised = prod(shape) * DTYPE_BYTES[stored.dtype]
            if size != promised:
                raise ValueError(f"it holds {size} bytes, and the index says {promised}")
        except (OSError, zipfile.BadZipFile, *_MALFORMED) as error:
            raise DamagedFileError(
                damage("bad_archive", file=piece.file, tensor=stored.name, reason=one_line(error))
            ) from None
        yield Tensor(
            name=stored.name,
            dtype=stored.dtype,
            shape=shape,
            path=folder / piece.file,
            offset=offset,
            size=size,
        )


def _numbers(path: Path, piece: Piece) -> tuple[int, int]:
    """Where the only storage of an archive of torch.save begins, and its bytes.

    The entry `archive/data/0` is stored, not compressed (torch 2.13, caffe2/serialize).
    """
    with path.open("rb") as file:
        with zipfile.ZipFile(_Window(file, piece.offset, piece.length)) as archive:
            (entry,) = (each for each in archive.infolist() if "/data/" in each.filename)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its numbers are compressed")
        start = piece.offset + entry.header_offset
        file.seek(start)
        header = file.read(LOCAL_HEADER_BYTES)
        name = int.from_bytes(header[26:28], "little")
        extra = int.from_bytes(header[28:30], "little")
        return start + LOCAL_HEADER_BYTES + name + extra, entry.file_size
