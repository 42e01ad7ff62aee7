"""A model of the first layers is a whole model, with the same numbers in what it has."""

import json
from pathlib import Path

import pytest
from checkpoints import TINY, write_checkpoint

from convert.findings import Verdict
from convert.first_layers import write_first_layers
from convert.hf_folder import read_hf_folder
from convert.values import difference
from convert.verify import verify_hf
from planner.errors import UsageError


@pytest.mark.parametrize("model_type", TINY)
@pytest.mark.parametrize("layers", [None, 3])
def test_it_is_whole_and_has_the_numbers_of_the_model(
    tmp_path: Path, model_type: str, layers: int | None
) -> None:
    model = write_checkpoint(tmp_path / "model", model_type)
    number = write_first_layers(model, tmp_path / "first", layers)
    result = verify_hf(tmp_path / "first")
    assert (result.verdict, result.tensors) == (Verdict.SOUND, number)
    whole, first = (read_hf_folder(tmp_path / name).tensors for name in ("model", "first"))
    assert first.keys() < whole.keys()
    assert [name for name in first if difference(first[name], whole[name]).elements] == []
    assert {name.split(".")[2] for name in first if ".layers." in name} == set(
        map(str, range(layers or 2))
    )
    assert (tmp_path / "first" / "generation_config.json").exists()


def test_mistakes_are_told_and_nothing_is_left(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    with pytest.raises(UsageError, match="has 4 layers: --layers 4 is not fewer"):
        write_first_layers(model, tmp_path / "first", 4)
    sparse_later = write_checkpoint(tmp_path / "deepseek", "deepseek_v3")
    with pytest.raises(UsageError, match="has no sparse one"):
        write_first_layers(sparse_later, tmp_path / "first", 1)
    with pytest.raises(UsageError, match="exists already"):
        write_first_layers(model, model, 2)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "mine"}))
    with pytest.raises(UsageError, match="a mine are not known by name"):
        write_first_layers(model, tmp_path / "first", 2)
    (model / "config.json").write_text(json.dumps(config))
    path = min(model.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-99])
    with pytest.raises(UsageError, match="is missing"):
        write_first_layers(model, tmp_path / "first", 2)
    assert not (tmp_path / "first").exists()
