"""Every kind of damage to a checkpoint in Hugging Face's format is found and named, and nothing
else is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import (
    Array,
    random_weights,
    tiny_config,
    write_checkpoint,
    write_weights,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.findings import Verdict
from convert.hf_folder import INDEX
from convert.verify import verify_hf

EXPERT = "model.layers.1.mlp.experts.{}.up_proj.weight"
ROUTER = "model.layers.2.mlp.gate.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def with_weights(change: Callable[[dict[str, Array]], None]) -> Callable[[Path], None]:
    """Return what changes the weights of a checkpoint and writes them again, index and all."""

    def damage(folder: Path) -> None:
        weights = random_weights(json.loads((folder / "config.json").read_text()))
        change(weights)
        write_weights(folder, weights)

    return damage


def with_json(file: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Return what changes a JSON file of a checkpoint."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return damage


def first_file(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def cut_short(folder: Path) -> None:
    path = first_file(folder)
    path.write_bytes(path.read_bytes()[:-1000])


def cut_to_nothing(folder: Path) -> None:
    first_file(folder).write_bytes(b"")


def garbage(folder: Path) -> None:
    path = first_file(folder)
    path.write_bytes(path.read_bytes()[:8] + b"x" + path.read_bytes()[9:])


def too_long(folder: Path) -> None:
    path = first_file(folder)
    path.write_bytes(path.read_bytes() + b"0")


def swap_experts(weights: dict[str, Array]) -> None:
    one, other = EXPERT.format(0), EXPERT.format(3)
    weights[one], weights[other] = weights[other], weights[one]


def fill(name: str, bits: int) -> Callable[[dict[str, Array]], None]:
    def change(weights: dict[str, Array]) -> None:
        weights[name][:] = bits

    return change


def plant(name: str, bits: int) -> Callable[[dict[str, Array]], None]:
    def change(weights: dict[str, Array]) -> None:
        weights[name].reshape(-1)[5] = bits

    return change


def reshape(weights: dict[str, Array]) -> None:
    weights[ROUTER] = weights[ROUTER].T.copy()


def widen(weights: dict[str, Array]) -> None:
    weights[ROUTER] = weights[ROUTER].astype(np.float32)


def take_away(weights: dict[str, Array]) -> None:
    del weights[ROUTER]


def add(weights: dict[str, Array]) -> None:
    weights["model.layers.4.mlp.gate.weight"] = weights[ROUTER]


def lie(content: dict[str, Any]) -> None:
    weight_map = content["weight_map"]
    files = sorted(set(weight_map.values()))
    weight_map[ROUTER] = files[files.index(weight_map[ROUTER]) - 1]


def forget(content: dict[str, Any]) -> None:
    del content["weight_map"][ROUTER]


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def remove_file(folder: Path) -> None:
    first_file(folder).unlink()


def copy_file(folder: Path) -> None:
    (folder / "model-00009-of-00002.safetensors").write_bytes(first_file(folder).read_bytes())


def other_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_config("qwen2_moe")))


# What is done to a checkpoint; the ids of all findings without a source; a word that names it.
ALONE: dict[str, tuple[Callable[[Path], None], set[str], str]] = {
    "a file cut short": (cut_short, {"cut_short"}, "model-00001-of-00002.safetensors"),
    "an empty file": (cut_to_nothing, {"cut_short"}, "model-00001-of-00002.safetensors"),
    "a header of garbage": (garbage, {"bad_header"}, "model-00001-of-00002.safetensors"),
    "bytes at the end": (too_long, {"bad_header"}, "1 bytes follow"),
    "a file missing": (remove_file, {"missing_file"}, "model-00001-of-00002.safetensors"),
    "a file too many": (copy_file, {"stray_file"}, "model-00009-of-00002.safetensors"),
    "no index": (remove(INDEX), {"no_index"}, "2 files"),
    "an index that is no JSON": (
        lambda folder: (folder / INDEX).write_text("{"),  # type: ignore[return-value,dict-item]  # its answer is not used
        {"bad_index"},
        INDEX,
    ),
    "an index that names another file": (
        with_json(INDEX, lie),
        {"index_lies", "not_in_index"},
        ROUTER,
    ),
    "an index that forgets a tensor": (
        with_json(INDEX, forget),
        {"not_in_index", "missing_tensor"},
        ROUTER,
    ),
    "one tensor missing": (
        with_weights(take_away),
        {"missing_tensor"},
        ROUTER,
    ),
    "one tensor too many": (with_weights(add), {"stray_tensor"}, "layers.4"),
    "another shape": (with_weights(reshape), {"shape"}, "[64, 4]"),
    "another type": (with_weights(widen), {"dtype"}, "F32"),
    "NaN planted": (with_weights(plant(ROUTER, 0x7FC0)), {"not_finite"}, "1 NaN and 0 infinite"),
    "infinity planted": (with_weights(plant(ROUTER, 0xFF80)), {"not_finite"}, "0 NaN and 1 inf"),
    "all zeros": (with_weights(fill(ROUTER, 0)), {"all_zero"}, ROUTER),
    "all minus zero": (with_weights(fill(ROUTER, 0x8000)), {"all_zero"}, ROUTER),
    "a config of another model": (
        other_model,
        {"missing_tensor", "shape", "stray_tensor"},
        "shared_expert",
    ),
    "a config of another size": (
        with_json("config.json", lambda config: config.update(moe_intermediate_size=48)),
        {"shape"},
        "[48, 64]",
    ),
    "a config of more layers": (
        with_json("config.json", lambda config: config.update(num_hidden_layers=5)),
        {"missing_tensor"},
        "model.layers.4.",
    ),
    "no tokenizer": (remove("tokenizer.json"), {"no_tokenizer"}, "tokenizer.json"),
    "a tokenizer cut short": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),  # type: ignore[return-value,dict-item]  # its answer is not used
        {"bad_file"},
        "tokenizer.json",
    ),
}


def ids(folder: Path, **options: Any) -> set[str]:
    return {each.id.removeprefix("convert.") for each in verify_hf(folder, **options).findings}


def test_a_whole_checkpoint_is_sound(checkpoint: Path, source: Path) -> None:
    assert verify_hf(checkpoint).verdict is Verdict.SOUND
    compared = verify_hf(checkpoint, source=source)
    assert compared.verdict is Verdict.SOUND
    assert "87 of 87 tensors equal the source to the last bit" in compared.checks


@pytest.mark.parametrize("kind", ALONE)
def test_damage_is_found_and_named_without_a_source(checkpoint: Path, kind: str) -> None:
    damage, wanted, word = ALONE[kind]
    damage(checkpoint)
    result = verify_hf(checkpoint)
    found = {finding.id.removeprefix("convert.") for finding in result.findings}
    assert found == wanted
    assert result.verdict is Verdict.DAMAGED
    assert word in " ".join(finding.message for finding in result.findings)


def test_swapped_experts_are_told_apart_by_the_source(checkpoint: Path, source: Path) -> None:
    with_weights(swap_experts)(checkpoint)
    assert verify_hf(checkpoint).verdict is Verdict.SOUND  # nothing in the file tells
    for trained in (False, True):
        found = verify_hf(checkpoint, source=source, trained=trained).findings
        assert {(each.id, each.values["tensor"], each.values["other"]) for each in found} == {
            ("convert.swapped", EXPERT.format(0), EXPERT.format(3)),
            ("convert.swapped", EXPERT.format(3), EXPERT.format(0)),
        }


def test_one_changed_number_is_found_beside_the_source(checkpoint: Path, source: Path) -> None:
    with_weights(plant(ROUTER, 0x3C00))(checkpoint)
    (found,) = verify_hf(checkpoint, source=source).findings
    assert (found.id, found.values["tensor"], found.values["different"]) == (
        "convert.differs",
        ROUTER,
        1,
    )


def test_what_training_changes_is_no_damage(checkpoint: Path, source: Path) -> None:
    def train(weights: dict[str, Array]) -> None:
        for values in weights.values():
            values ^= 3  # the last bits of every number

    with_weights(train)(checkpoint)
    assert verify_hf(checkpoint, source=source, trained=True).verdict is Verdict.SOUND
    assert ids(checkpoint, source=source) == {"differs"}


def test_a_matrix_that_was_not_loaded_is_found_after_training(
    checkpoint: Path, source: Path
) -> None:
    other = random_weights(tiny_config("qwen3_moe"), seed=9)
    name = EXPERT.format(2)
    with_weights(lambda weights: weights.update({name: other[name]}))(checkpoint)
    (found,) = verify_hf(checkpoint, source=source, trained=True).findings
    assert (found.id, found.values["tensor"]) == ("convert.unrelated", name)
    assert abs(found.values["correlation"]) < 0.2


def test_a_model_that_equals_its_source_was_not_trained(checkpoint: Path, source: Path) -> None:
    assert ids(checkpoint, source=source, trained=True) == {"nothing_trained"}


def test_a_config_or_vocabulary_of_another_model_than_the_sources_is_named(
    checkpoint: Path, source: Path
) -> None:
    with_json("config.json", lambda config: config.update(num_experts_per_tok=1))(checkpoint)
    with_json("tokenizer.json", lambda content: content["model"]["vocab"].update({"a": 7, "b": 8}))(
        checkpoint
    )
    found = verify_hf(checkpoint, source=source).findings
    assert {each.id for each in found} == {"convert.other_config", "convert.other_vocabulary"}
    (field,) = (each.values["field"] for each in found if each.id == "convert.other_config")
    assert field == "moe.router_topk"


def test_files_that_the_source_has_are_missed(checkpoint: Path, source: Path) -> None:
    (checkpoint / "generation_config.json").unlink()
    with_json("tokenizer_config.json", lambda content: content.pop("chat_template"))(checkpoint)
    result = verify_hf(checkpoint, source=source)
    assert {each.id for each in result.findings} == {
        "convert.not_carried",
        "convert.no_chat_template",
    }
    assert result.verdict is Verdict.DOUBTFUL


def test_layers_for_multi_token_prediction_that_are_left_out_are_missed(tmp_path: Path) -> None:
    """Once, not tensor by tensor; a single tensor that is missing is named itself."""
    folder = write_checkpoint(tmp_path / "mtp", "deepseek_v3")
    assert verify_hf(folder).verdict is Verdict.SOUND
    weights = random_weights(tiny_config("deepseek_v3"))
    mtp = [name for name in weights if name.startswith("model.layers.4.")]
    write_weights(folder, {name: weights[name] for name in weights if name != mtp[1]})
    (found,) = verify_hf(folder).findings
    assert (found.id, found.values["tensor"]) == ("convert.missing_tensor", mtp[1])
    write_weights(folder, {name: weights[name] for name in weights if name not in mtp})
    (found,) = verify_hf(folder).findings
    assert (found.id, found.values["tensors"]) == ("convert.missing_mtp", len(mtp))


def test_tied_weights_that_differ_are_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "mtp", "deepseek_v3")
    weights = random_weights(tiny_config("deepseek_v3"))
    name = "model.layers.4.shared_head.head.weight"
    weights[name] = weights[name].copy()
    weights[name][0, 0] ^= 1
    write_weights(folder, weights)
    (found,) = verify_hf(folder).findings
    assert (found.id, found.values["tensor"]) == ("convert.not_tied", name)
    assert (found.values["other"], found.values["different"]) == ("lm_head.weight", 1)


def test_few_matrices_at_their_start_are_doubted_and_a_model_of_them_once(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "qwen3")
    weights = random_weights(tiny_config("qwen3"))
    large = [name for name, values in weights.items() if values.ndim > 1 and values.size >= 4096]
    start = np.random.default_rng(3)
    drawn = {
        name: (start.standard_normal(weights[name].shape, np.float32) * np.float32(0.02))
        for name in large
    }
    bits = {
        name: (values.view(np.uint32) >> 16).astype(np.uint16) for name, values in drawn.items()
    }
    one = large[1]
    write_weights(folder, {**weights, one: bits[one]})
    (found,) = verify_hf(folder).findings
    assert (found.id, found.values) == ("convert.at_start", {"tensor": one})
    write_weights(folder, {**weights, **bits})
    (found,) = verify_hf(folder).findings
    assert found.id == "convert.never_trained"


def test_weights_that_are_quantised_keep_their_scales(tmp_path: Path) -> None:
    """As DeepSeek publishes them: fp8 with a scale a block, which no name of a layer has."""
    folder = write_checkpoint(tmp_path / "fp8", "deepseek_v3")
    with_json(
        "config.json", lambda config: config.update(quantization_config={"quant_method": "fp8"})
    )(folder)
    weights = random_weights(tiny_config("deepseek_v3"))
    name = "model.layers.0.self_attn.o_proj.weight"
    weights[name] = (weights[name] >> 8).astype(np.uint8) & 0x3F
    weights[f"{name}_scale_inv"] = np.ones((1, 1), np.float32)
    write_weights(folder, weights)
    assert verify_hf(folder).findings == []
    weights[name][0, 0] = 0x7F
    write_weights(folder, weights)
    (found,) = verify_hf(folder).findings
    assert (found.id, found.values["nan"]) == ("convert.not_finite", 1)


def test_a_source_that_is_damaged_is_named(checkpoint: Path, source: Path) -> None:
    cut_short(source)
    assert "bad_source" in ids(checkpoint, source=source)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("whole") / "checkpoint")


@settings(max_examples=20)
@given(content=JSON, file=st.sampled_from([INDEX, "tokenizer.json", "tokenizer_config.json"]))
def test_no_json_beside_the_weights_breaks_the_check(
    whole: Path, content: object, file: str
) -> None:
    kept = (whole / file).read_bytes()
    try:
        for written in (
            content,
            {"weight_map": content, "model": content, "added_tokens": content},
        ):
            (whole / file).write_text(json.dumps(written))
            assert verify_hf(whole).kind == "hugging-face"
    finally:
        (whole / file).write_bytes(kept)
