"""Where the config.json of a model is found, and in which order."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from planner.errors import UsageError
from planner.model_files import MODELS_FOLDER, known_models, planner_cache, resolve_model
from tests.inputs.configs import BUNDLED, QWEN3_8B

NAME = "Org/Some.Model-8B"


def write_config(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(QWEN3_8B | changes))
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home")}


@pytest.mark.parametrize("model", known_models(), ids=lambda model: model.name)
def test_bundled_files_are_the_ones_of_the_index(model: Any) -> None:
    assert hashlib.sha256(model.path.read_bytes()).hexdigest() == model.sha256


@pytest.mark.parametrize("model", known_models(), ids=lambda model: model.name)
def test_a_bundled_model_is_found_by_name_and_hub_id_in_any_case(model: Any) -> None:
    by_name = resolve_model(model.name)

    assert (by_name.name, by_name.origin) == (model.name, "bundled")
    assert resolve_model(model.name.lower()) == by_name
    assert resolve_model(model.hub_id.upper()) == by_name


def test_every_bundled_file_is_in_the_index() -> None:
    assert {path.stem for path in MODELS_FOLDER.glob("*.json")} == set(BUNDLED)


def test_a_folder_and_a_file(tmp_path: Path) -> None:
    path = write_config(tmp_path / "my-model" / "config.json")
    other = write_config(tmp_path / "other.json")

    assert resolve_model(str(path.parent)).name == "my-model"
    assert resolve_model(str(path)).origin == str(path)
    assert resolve_model(str(other)).name == "other"


def test_a_relative_path_names_the_model_after_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(tmp_path / "my-model" / "config.json")
    write_config(tmp_path / "my-model" / "other.json")
    monkeypatch.chdir(tmp_path)

    assert resolve_model("my-model/config.json").name == "my-model"
    assert resolve_model("my-model/other.json").name == "other"
    monkeypatch.chdir(path.parent)
    assert resolve_model("config.json").name == resolve_model(".").name == "my-model"


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = write_config(tmp_path / "my-model" / "config.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    assert resolve_model(str(path)).num_layers == QWEN3_8B["num_hidden_layers"]


def test_a_hub_id_may_be_a_folder_below_a_search_path(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    path = write_config(tmp_path / "models" / NAME / "config.json")

    model = resolve_model(NAME, search_paths=[tmp_path / "models"], environ=environ)

    assert (model.name, model.origin) == ("Some.Model-8B", str(path))


CACHES = {
    "planner": (".cache/moe-planner/models/Org--Some.Model-8B", {}),
    "hugging face": (".cache/huggingface/hub/models--Org--Some.Model-8B/snapshots/abc", {}),
    "hf_home": ("hf/hub/models--Org--Some.Model-8B/snapshots/abc", {"HF_HOME": "hf"}),
    "hf_hub_cache": ("hub/models--Org--Some.Model-8B/snapshots/abc", {"HF_HUB_CACHE": "hub"}),
    "xdg": ("c/huggingface/hub/models--Org--Some.Model-8B/snapshots/a", {"XDG_CACHE_HOME": "c"}),
    "modelscope": (".cache/modelscope/hub/models/Org/Some___Model-8B", {}),
    "modelscope 1.40": (".cache/modelscope/models/Org--Some.Model-8B/snapshots/master", {}),
    "modelscope, old": (".cache/modelscope/hub/Org/Some.Model-8B", {}),
    "modelscope_cache": ("ms/models/Org/Some___Model-8B", {"MODELSCOPE_CACHE": "ms"}),
}


@pytest.mark.parametrize(("folder", "variables"), CACHES.values(), ids=CACHES)
def test_a_hub_id_is_found_in_the_caches_on_disk(
    tmp_path: Path, environ: dict[str, str], folder: str, variables: dict[str, str]
) -> None:
    home = Path(environ["HOME"])
    path = write_config(home / folder / "config.json")
    environ |= {name: str(home / value) for name, value in variables.items()}

    assert resolve_model(NAME, environ=environ).origin == str(path)


def test_the_snapshot_of_main_is_taken_first(environ: dict[str, str]) -> None:
    hub = Path(environ["HOME"]) / ".cache/huggingface/hub/models--Org--Some.Model-8B"
    for revision in ("aaa", "bbb", "ccc"):
        write_config(hub / "snapshots" / revision / "config.json")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("bbb")

    assert "/bbb/" in resolve_model(NAME, environ=environ).origin


def test_a_snapshot_without_its_file_is_passed_over(environ: dict[str, str]) -> None:
    """huggingface_hub leaves dangling links when the blobs of a repository were deleted."""
    hub = Path(environ["HOME"]) / ".cache/huggingface/hub/models--Org--Some.Model-8B"
    (hub / "snapshots" / "aaa").mkdir(parents=True)
    (hub / "snapshots" / "aaa" / "config.json").symlink_to(hub / "blobs" / "gone")

    with pytest.raises(UsageError, match="not in the local hub caches"):
        resolve_model(NAME, environ=environ)


def test_the_network_comes_last(tmp_path: Path, environ: dict[str, str]) -> None:
    asked = []

    def download(hub_id: str) -> Path:
        asked.append(hub_id)
        return write_config(tmp_path / "downloaded" / "config.json")

    assert resolve_model(NAME, environ=environ, download=download).name == "Some.Model-8B"
    write_config(planner_cache(environ) / "Org--Some.Model-8B" / "config.json")
    resolve_model(NAME, environ=environ, download=download)
    resolve_model("qwen3-30b-a3b", environ=environ, download=download)

    assert asked == [NAME]


def test_what_is_not_a_hub_id_is_never_looked_for_in_caches_or_fetched(
    environ: dict[str, str],
) -> None:
    def download(hub_id: str) -> Path:
        raise AssertionError(hub_id)

    for name in ("", "Model", "a/b/c", "../x", "a b/c", "a/" + "b" * 5000, "a\0/b", "https://x/y"):
        with pytest.raises(UsageError) as caught:
            resolve_model(name, environ=environ, download=download)
        assert caught.value.message_id == "model.unknown"
        assert len(caught.value.message) < 300


def test_an_unknown_name_is_told_with_the_nearest_bundled_one(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_model("Qwen/Qwen3-30B-A3", environ=environ)

    assert "Qwen3-30B-A3B" in caught.value.fix


def test_every_cut_of_a_config_is_told_in_one_line(tmp_path: Path) -> None:
    content = known_models()[0].path.read_bytes().strip()
    path = tmp_path / "config.json"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError) as caught:
            resolve_model(str(path))
        assert caught.value.message_id == "file.not_json"
        assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "message_id"),
    [
        (b"\xff\xfe\x00", "file.unreadable"),
        (b" " * (2**20 + 1), "file.unreadable"),
        (b"[" * 100_000, "file.too_deep"),
        (b'{"a": 1, "a": 1}', "file.duplicate_key"),
        (b'{"a": [{"b": 1, "c": 2, "b": 3}]}', "file.duplicate_key"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "file.not_json"),
        (b"NaN", "config.not_object"),
    ],
)
def test_a_file_that_is_no_config_is_told(tmp_path: Path, content: bytes, message_id: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)

    with pytest.raises(UsageError) as caught:
        resolve_model(str(path))

    assert caught.value.message_id == message_id


def test_a_folder_without_config_json_and_a_missing_file_are_told(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "gone.json")):
        with pytest.raises(UsageError, match="no such file"):
            resolve_model(name)
