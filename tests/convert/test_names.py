"""What tensors a folder must hold, may hold, and in which types; and a config.json that is none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import Array, random_weights, tiny_config, write_checkpoint, write_weights

from convert.findings import Verdict
from convert.safetensors_file import read_header
from convert.verify import verify_hf

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def ids(folder: Path, **options: Any) -> list[str]:
    return [each.id.removeprefix("convert.") for each in verify_hf(folder, **options).findings]


def as_float32(values: Array) -> Array:
    return (values.astype(np.uint32) << 16).view(np.float32)


def beside(folder: Path, model_type: str, change: Callable[[dict[str, Array]], None]) -> Path:
    """Return another folder, like this one but for its weights."""
    other = folder.with_name(f"{folder.name}-other")
    shutil.copytree(folder, other)
    weights = random_weights(tiny_config(model_type))
    change(weights)
    write_weights(other, weights)
    return other


def test_a_tied_head_may_be_stored_and_then_equals_the_embedding(tmp_path: Path) -> None:
    """As in some models of Qwen; the conversion leaves it out."""
    without = write_checkpoint(tmp_path / "model", "qwen3")
    stored = beside(
        without, "qwen3", lambda weights: weights.update({HEAD: weights[EMBEDDING].copy()})
    )
    assert ids(stored) == ids(without, source=stored) == ids(stored, source=without) == []
    weights = random_weights(tiny_config("qwen3"))
    head = weights[EMBEDDING].copy()
    head[0, 0] ^= 1
    write_weights(stored, {**weights, HEAD: head})
    assert ids(stored) == ["not_tied"]
    write_weights(stored, {**weights, HEAD: head[:-1]})
    assert ids(stored) == ["shape"]


def test_a_head_that_is_not_tied_must_be_there(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "model", "qwen3_moe")
    without = beside(whole, "qwen3_moe", lambda weights: weights.pop(HEAD))
    assert ids(without) == ids(without, source=whole) == ["missing_tensor"]


def test_frequencies_that_loaders_make_themselves_may_be_there_or_not(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "model")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    more = beside(
        whole, "qwen3_moe", lambda weights: weights.update({name: np.ones(8, np.float32)})
    )
    assert ids(more) == ids(whole, source=more) == ids(more, source=whole) == []


@pytest.mark.parametrize(("model_type", "own"), [("ernie4_5_moe", True), ("qwen3_moe", False)])
def test_a_router_in_fp32_is_damage_but_where_the_model_keeps_it_so(
    tmp_path: Path, model_type: str, *, own: bool
) -> None:
    """Or where the source has it so."""
    folder = write_checkpoint(tmp_path / "model", model_type)
    name = "model.layers.2.mlp.gate.weight"
    wide = beside(
        folder, model_type, lambda weights: weights.update({name: as_float32(weights[name])})
    )
    assert ids(wide) == ([] if own else ["dtype"])
    assert ids(wide, source=wide) == []
    assert ids(folder, source=wide) == []  # the same numbers, as bfloat16 has them


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("hidden_size", -4, "hidden_size must be a whole number"),
        ("num_hidden_layers", 10**9, "not 1000000000"),
        ("num_experts", "many", "num_experts"),
        ("num_attention_heads", None, "num_attention_heads"),
    ],
)
def test_a_config_that_describes_no_model_is_damage(
    tmp_path: Path, field: str, value: object, word: str
) -> None:
    """It was once passed over as that of a model that is not known."""
    folder = write_checkpoint(tmp_path / "model")
    config = {**json.loads((folder / "config.json").read_text()), field: value}
    (folder / "config.json").write_text(json.dumps(config))
    (found,) = verify_hf(folder).findings
    assert (found.id, word in found.message) == ("convert.bad_config", True)


def test_a_model_that_is_not_known_is_no_damage(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "of_tomorrow"}))
    result = verify_hf(folder)
    assert result.verdict is Verdict.SOUND
    assert "names of tensors: those of of_tomorrow models are not known" in result.not_checked


def test_code_and_processors_that_only_the_source_has_are_missed(tmp_path: Path) -> None:
    """transformers 5 writes what both said into processor_config.json."""
    source, folder = (write_checkpoint(tmp_path / name) for name in ("source", "checkpoint"))
    for name in ("modeling_mine.py", "preprocessor_config.json"):
        (source / name).write_text("{}")
    missed = [each.values["file"] for each in verify_hf(folder, source=source).findings]
    assert missed == ["modeling_mine.py", "preprocessor_config.json"]
    for name in ("modeling_mine.py", "processor_config.json"):
        (folder / name).write_text("{}")
    assert ids(folder, source=source) == []


def write_raw(folder: Path, header: object, data: bytes) -> Path:
    """Return a single file of a folder that holds nothing else of weights."""
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_a_file_that_is_damaged_is_not_called_stray_too(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "of_tomorrow"}))
    write_raw(folder, [1], b"")
    assert ids(folder) == ["bad_header"]
    write_raw(folder, {}, b"")
    assert ids(folder) == ["empty"]


@pytest.mark.parametrize(
    ("dtype", "numbers", "size"), [("F4", 4, 2), ("F6_E2M3", 4, 3), ("C64", 2, 16)]
)
def test_types_that_no_bytes_hold_alone_are_read(
    tmp_path: Path, dtype: str, numbers: int, size: int
) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "of_tomorrow"}))
    entry = {"dtype": dtype, "shape": [numbers], "data_offsets": [0, size]}
    path = write_raw(folder, {"x": entry}, b"1" * size)
    assert [tensor.elements for tensor in read_header(path)] == [numbers]
    assert ids(folder, source=folder) == []
    entry["shape"] = [numbers + 1]
    write_raw(folder, {"x": entry}, b"1" * size)
    assert ids(folder) == ["bad_header"]
