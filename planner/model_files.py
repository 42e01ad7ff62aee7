"""Finds the config.json of a model: bundled, in a folder, in a hub's cache, at last by download."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from planner.errors import UsageError
from planner.model_config import model_spec_from_config
from planner.model_spec import ModelSpec
from planner.yaml_files import (
    StrictModel,
    load_yaml_model,
    one_line,
    read_text,
    shortened,
    suggestion,
)

MODELS_FOLDER = Path(__file__).parent / "data" / "models"
CONFIG_NAME = "config.json"
BUNDLED = "bundled"

Fidelity = Literal["exact", "reconstructed", "partial"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledModel:
    """A config.json that comes with the planner, and what is published about the model."""

    name: str
    hub_id: str
    fidelity: Fidelity  # of the copy to the published file
    source: str  # repository, path and commit
    sha256: str
    published_total_billions: float | None
    published_active_billions: float | None
    published_note: str | None = None  # why the published total is off by more than 1 %
    total_parameters: int  # exact, without MTP and without a vision tower

    @property
    def path(self) -> Path:
        """The bundled file."""
        return MODELS_FOLDER / f"{self.name}.json"


class _Entry(StrictModel):
    hub_id: str
    fidelity: Fidelity
    source: str
    sha256: str
    published_total_billions: float | None
    published_active_billions: float | None
    published_note: str | None = None
    total_parameters: int


class _Index(StrictModel):
    models: dict[str, _Entry]


@lru_cache
def known_models() -> tuple[BundledModel, ...]:
    """The bundled models, in the order of their index."""
    index = load_yaml_model(MODELS_FOLDER / "index.yaml", _Index)
    return tuple(BundledModel(name=name, **dict(entry)) for name, entry in index.models.items())


def resolve_model(
    name: str,
    *,
    search_paths: Sequence[Path] = (),
    environ: Mapping[str, str] = os.environ,
    download: Callable[[str], Path] | None = None,
) -> ModelSpec:
    """The model of a bundled name, a hub id, a folder or a config.json.

    A hub id is looked for among the bundled models, then below the working directory and
    `search_paths`, then in the hubs' caches on disk (`environ` says where), and at last given to
    `download`, which returns the path of a config.json. Upper and lower case are the same for
    bundled names. Raises UsageError: model.unknown, file.*, config.*.
    """
    for bundled in known_models():
        if name.casefold() in (bundled.name.casefold(), bundled.hub_id.casefold()):
            return _load(bundled.path, name=bundled.name, origin=BUNDLED)
    path = _local_config(name, search_paths)
    if path is not None:
        return _load(path, name=_model_name(path), origin=str(path))
    if _HUB_ID.fullmatch(name):
        path = next((file for file in cached_configs(name, environ) if file.is_file()), None)
        if path is None and download is not None:
            path = download(name)
    if path is None:
        raise _unknown(name)
    return _load(path, name=name.split("/")[1], origin=str(path))


def cached_configs(hub_id: str, environ: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """Where the caches on disk may hold a model's config.json, the likeliest first.

    Layouts: huggingface_hub 1.x and modelscope 1.40 (modelscope/hub/utils/utils.py:205), with the
    older ones of the latter, and the planner's own.
    """
    owner, model = hub_id.split("/")
    home, cache = _home(environ), _cache_home(environ)
    yield planner_cache(environ) / f"{owner}--{model}" / CONFIG_NAME

    hugging_face = Path(environ.get("HF_HOME") or cache / "huggingface") / "hub"
    hugging_face = Path(environ.get("HF_HUB_CACHE") or hugging_face)
    yield from _snapshots(hugging_face / f"models--{owner}--{model}")

    model_scope = Path(environ.get("MODELSCOPE_CACHE") or home / ".cache" / "modelscope")
    safe_name = model.replace(".", "___")
    for root in (model_scope, model_scope / "hub"):
        yield from _snapshots(root / "models" / f"{owner}--{model}")
        for folder in (root / "models" / owner, root / owner):
            yield folder / safe_name / CONFIG_NAME
            yield folder / model / CONFIG_NAME


def planner_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder where downloaded config.json files are kept."""
    return _cache_home(environ) / "moe-planner" / "models"


def read_config(path: Path) -> object:
    """The content of a JSON file.

    Raises UsageError: file.unreadable, file.not_json, file.too_deep, file.duplicate_key.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError("file.duplicate_key", path=path, key=shortened(twice))
        return content

    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise UsageError("file.too_deep", path=path) from None
    except json.JSONDecodeError as error:
        raise UsageError("file.not_json", path=path, reason=one_line(error)) from None
    except ValueError:
        reason = "a number has thousands of digits"
        raise UsageError("file.not_json", path=path, reason=reason) from None


def _cache_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CACHE_HOME") or _home(environ) / ".cache")


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home())


def _load(path: Path, *, name: str, origin: str) -> ModelSpec:
    return model_spec_from_config(read_config(path), name=name, origin=origin)


def _local_config(name: str, search_paths: Sequence[Path]) -> Path | None:
    """The config.json that a name means as a path, if it is one."""
    if not name:
        return None
    given = Path(name).expanduser()
    for path in (given, *(Path(folder) / name for folder in search_paths)):
        if _is_folder(path):
            return path / CONFIG_NAME
        if path.suffix == ".json" or _is_file(path):
            return path
    return None


def _snapshots(repository: Path) -> Iterator[Path]:
    """The config.json of every snapshot of a cached repository, the one of `main` first."""
    folder = repository / "snapshots"
    try:
        main = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        main = ""
    try:
        revisions = sorted(snapshot.name for snapshot in folder.iterdir())
    except OSError:
        return
    for revision in sorted(revisions, key=lambda revision: revision != main):
        yield folder / revision / CONFIG_NAME


def _model_name(path: Path) -> str:
    """What to call the model of a file: its folder, unless the file itself has a name."""
    if path.name != CONFIG_NAME:
        return path.stem
    # Not the folder behind a link: in a hub's cache the file links to a folder of hashes.
    return Path(os.path.abspath(path)).parent.name


def _unknown(name: str) -> UsageError:
    names = [bundled.name for bundled in known_models()]
    hint = suggestion(name.rsplit("/", 1)[-1], names)
    return UsageError("model.unknown", name=shortened(name), suggestion=hint)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
