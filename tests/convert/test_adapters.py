"""A merged model is the base and the adapter's product, weight by weight; whatever else it is, is
named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import (
    Array,
    random_weights,
    tiny_config,
    write_checkpoint,
    write_safetensors,
    write_weights,
)

from convert.adapters import PREFIX, A, B, read_adapter
from convert.findings import Verdict
from convert.values import as_float32, to_bfloat16
from convert.verify import verify_adapter, verify_hf
from planner.errors import UsageError

RANK, ALPHA = 8, 32.0
ADAPTED = ("self_attn.q_proj", "mlp.experts.1.down_proj")
NAME = "model.layers.2.mlp.experts.1.down_proj.weight"


def adapter_weights(weights: dict[str, Array], size: float) -> dict[str, Array]:
    """Return pairs of matrices in float32 for some modules, whose product is about `size`."""
    rng = np.random.default_rng(5)
    pairs = {}
    for name, values in weights.items():
        module = name.removesuffix(".weight")
        if module.endswith(ADAPTED):
            outputs, inputs = values.shape
            pairs[PREFIX + module + A] = rng.standard_normal((RANK, inputs), np.float32)
            b = rng.standard_normal((outputs, RANK), np.float32)
            pairs[PREFIX + module + B] = b * np.float32(size / ALPHA)
    return pairs


def write_adapter(folder: Path, pairs: dict[str, Array], **config: object) -> Path:
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", pairs)
    content = {"r": RANK, "lora_alpha": ALPHA, **config}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return folder


def merge(weights: dict[str, Array], pairs: dict[str, Array], scaling: float) -> dict[str, Array]:
    merged = dict(weights)
    for name in weights:
        module = PREFIX + name.removesuffix(".weight")
        if module + A in pairs:
            base = as_float32(weights[name].reshape(-1), "BF16")
            assert base is not None
            product = scaling * (pairs[module + B] @ pairs[module + A])
            merged[name] = to_bfloat16(base.reshape(product.shape) + product)
    return merged


class Folders:
    """A base, an adapter of it, and the two merged."""

    def __init__(self, root: Path, size: float) -> None:
        self.base = write_checkpoint(root / "base")
        self.weights = random_weights(tiny_config("qwen3_moe"))
        self.pairs = adapter_weights(self.weights, size)
        self.adapter = write_adapter(root / "adapter", self.pairs)
        self.merged = write_checkpoint(root / "merged")
        self.write(lambda merged: None)

    def write(self, change: Callable[[dict[str, Array]], None]) -> None:
        merged = merge(self.weights, self.pairs, ALPHA / RANK)
        change(merged)
        write_weights(self.merged, merged)


@pytest.fixture(params=[1e-3, 1.0], ids=["small", "large"])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> Folders:
    """With a product of about a step of bfloat16, and with one that outweighs the base."""
    return Folders(tmp_path, request.param)


def found(folders: Folders) -> set[tuple[str, str]]:
    result = verify_hf(folders.merged, source=folders.base, adapter=folders.adapter)
    return {(each.id, str(each.values.get("tensor"))) for each in result.findings}


def test_a_merged_model_is_sound(folders: Folders) -> None:
    result = verify_hf(folders.merged, source=folders.base, adapter=folders.adapter)
    assert result.verdict is Verdict.SOUND
    assert "merged - base beside the adapter's product in 8 weights" in " ".join(result.checks)


def test_one_weight_that_was_not_merged_is_named(folders: Folders) -> None:
    folders.write(lambda merged: merged.update({NAME: folders.weights[NAME]}))
    assert found(folders) == {("convert.not_merged", NAME)}


def test_the_adapter_of_another_expert_is_named(folders: Folders) -> None:
    other = NAME.replace("layers.2", "layers.0")

    def change(merged: dict[str, Array]) -> None:
        wrong = {**folders.pairs}
        for end in (A, B):
            one = PREFIX + NAME.removesuffix(".weight") + end
            wrong[one] = folders.pairs[PREFIX + other.removesuffix(".weight") + end]
        merged[NAME] = merge(folders.weights, wrong, ALPHA / RANK)[NAME]

    folders.write(change)
    assert found(folders) == {("convert.not_merged", NAME)}


def test_another_scaling_is_named_in_every_weight(folders: Folders) -> None:
    def change(merged: dict[str, Array]) -> None:
        merged.update(merge(folders.weights, folders.pairs, 1.0))

    folders.write(change)
    assert {each for each, _ in found(folders)} == {"convert.not_merged"}
    assert len(found(folders)) == 8


def test_a_weight_that_the_adapter_leaves_alone_must_not_change(folders: Folders) -> None:
    name = "model.layers.3.mlp.gate.weight"

    def change(merged: dict[str, Array]) -> None:
        merged[name] = merged[name] ^ 1

    folders.write(change)
    assert found(folders) == {("convert.changed_without_adapter", name)}


def test_an_adapter_of_another_model_is_named(folders: Folders, tmp_path: Path) -> None:
    pairs = dict(folders.pairs)
    a = PREFIX + "model.layers.0.self_attn.q_proj" + A
    pairs[a] = np.concatenate([pairs[a], pairs[a]], axis=1)
    pairs[PREFIX + "model.layers.9.self_attn.q_proj" + A] = pairs[a]
    pairs[PREFIX + "model.layers.9.self_attn.q_proj" + B] = pairs[a.replace(A, B)]
    del pairs[PREFIX + "model.layers.1.self_attn.q_proj" + B]
    folders.adapter = write_adapter(tmp_path / "other", pairs)
    names = {each for each, _ in found(folders)}
    assert {"convert.no_module", "convert.adapter_shape", "convert.half_adapter"} <= names


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    tmp_path: Path, config: dict[str, object], field: str
) -> None:
    pairs = adapter_weights(random_weights(tiny_config("qwen3_moe")), 1.0)
    folder = write_adapter(tmp_path / "adapter", pairs, **config)
    with pytest.raises(UsageError, match=field):
        read_adapter(folder)


def test_an_adapter_alone_is_looked_at_beside_its_model(folders: Folders) -> None:
    alone = verify_adapter(folders.adapter)
    assert (alone.verdict, alone.kind, alone.tensors) == (Verdict.SOUND, "adapter", 16)
    assert "that it fits" in " ".join(alone.not_checked)
    assert verify_adapter(folders.adapter, source=folders.base).verdict is Verdict.SOUND


def spoil(pairs: dict[str, Array], kind: str) -> None:
    first = min(name for name in pairs if name.endswith(A))
    if kind == "not_finite":
        pairs[first][0, 0] = np.nan
    elif kind == "all_zero":
        pairs[first][:] = 0
    elif kind == "half_adapter":
        del pairs[first]
    elif kind == "adapter_shape":
        pairs[first] = np.concatenate([pairs[first]] * 2, axis=1)
    elif kind == "no_product":
        pairs[first] = pairs[first][:0]
        pairs[first.replace(A, B)] = pairs[first.replace(A, B)][:, :0]
    elif kind == "no_pairs":
        pairs.clear()
        pairs["base_model.model.lm_head.weight"] = np.ones((4, 4), np.float32)
    else:
        for name in pairs:
            if name.endswith(B):
                pairs[name][:] = 0


@pytest.mark.parametrize(
    "kind",
    [
        "not_finite",
        "all_zero",
        "half_adapter",
        "adapter_shape",
        "no_product",
        "no_pairs",
        "adapter_not_trained",
    ],
)
def test_what_is_wrong_with_an_adapter_alone_is_named(
    folders: Folders, tmp_path: Path, kind: str
) -> None:
    spoil(folders.pairs, kind)
    adapter = write_adapter(tmp_path / "spoiled", folders.pairs)
    found = verify_adapter(adapter, source=folders.base).findings
    assert [each.id for each in found] == [f"convert.{kind}"]


def test_some_second_matrices_of_zeros_are_those_that_no_token_reached(
    folders: Folders, tmp_path: Path
) -> None:
    folders.pairs[PREFIX + NAME.removesuffix(".weight") + B][:] = 0
    adapter = write_adapter(tmp_path / "some", folders.pairs)
    assert verify_adapter(adapter, source=folders.base).verdict is Verdict.SOUND


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_an_adapter_whose_product_is_no_number_is_not_merged(tmp_path: Path, value: float) -> None:
    """And what is said of it is JSON, which knows no infinity."""
    folders = Folders(tmp_path, 1e-3)
    for name in folders.pairs:
        if NAME.removesuffix(".weight") in name:
            folders.pairs[name][:] = value
    adapter = write_adapter(tmp_path / "other", folders.pairs)
    result = verify_hf(folders.merged, source=folders.base, adapter=adapter)
    (one,) = result.findings
    assert (one.id, one.values["tensor"]) == ("convert.not_merged", NAME)
    json.dumps(result.to_json(), allow_nan=False)
