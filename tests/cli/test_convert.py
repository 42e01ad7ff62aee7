"""`moe-convert plan` and `verify`: screens, JSON, exit statuses and mistakes."""

import io
import json
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from checkpoints import random_weights, tiny_config, write_checkpoint, write_weights
from console import Ran
from golden_files import check_golden
from runs import make_run

from convert.cli import main
from launch.run_folder import write_run_folder
from planner.site import Site
from planner.workload import TunerType


def convert(*words: object, columns: int = 100) -> Ran:
    """Return what `moe-convert WORD...` does."""
    out, err = io.StringIO(), io.StringIO()
    status: object = None
    with (
        mock.patch.dict("os.environ", {"COLUMNS": str(columns)}),
        mock.patch.object(sys, "argv", ["moe-convert", *map(str, words)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            status = ended.code
    assert isinstance(status, int)
    return Ran(status, out.getvalue(), err.getvalue())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint, its source and a run, where commands run."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "checkpoint")
    write_checkpoint(tmp_path / "source")
    return tmp_path


def without_times(text: str) -> str:
    return re.sub(r"in [\d.]+ s, +[\d.]+ GB/s", "in TIME", text)


def spoil(folder: Path) -> None:
    """Swap experts, plant NaN, leave out a tensor and the tokenizer."""
    weights = random_weights(tiny_config("qwen3_moe"))
    for layer in (0, 1):
        names = [f"model.layers.{layer}.mlp.experts.{i}.up_proj.weight" for i in (0, 1)]
        weights[names[0]], weights[names[1]] = weights[names[1]], weights[names[0]]
    weights["lm_head.weight"][3, 3] = 0x7FC0
    del weights["model.norm.weight"]
    write_weights(folder, weights)
    (folder / "tokenizer.json").unlink()
    (folder / "generation_config.json").unlink()


@pytest.mark.parametrize("columns", [80, 100])
def test_golden_screens_of_verify(here: Path, columns: int) -> None:
    sound = convert("verify", "checkpoint", "--source", "source", columns=columns)
    spoil(here / "checkpoint")
    damaged = convert("verify", "checkpoint", "--source", "source", columns=columns)
    assert (sound.status, damaged.status) == (0, 2)
    text = without_times(f"{sound.out}\n{damaged.out}")
    assert max(map(len, text.splitlines())) <= columns
    check_golden(f"cli/convert-verify-{columns}.txt", text)


@pytest.mark.parametrize("tuner_type", TunerType)
def test_golden_screens_of_plan(here: Path, tuner_type: TunerType) -> None:
    site = Site(model_path="/data/model", dataset=("a",))
    write_run_folder(make_run(ep=8, site=site, tuner_type=tuner_type), here / "run")
    ran = convert("plan", "run")
    assert ran.status == 0
    assert max(map(len, ran.out.splitlines())) <= 100
    check_golden(f"cli/convert-plan-{tuner_type}.txt", ran.out)


def test_a_terminal_obeys_no_name_of_a_tensor(here: Path) -> None:
    weights = random_weights(tiny_config("qwen3_moe"))
    weights["a\x1b[31m\n" + "b" * 5000] = weights["lm_head.weight"]
    write_weights(here / "checkpoint", weights)
    ran = convert("verify", "checkpoint")
    assert ran.status == 2
    assert "\x1b" not in ran.out
    assert max(map(len, ran.out.splitlines())) < 1100


def test_json_of_verify_has_all_findings(here: Path) -> None:
    spoil(here / "checkpoint")
    ran = convert("verify", "checkpoint", "--source", "source", "--json")
    found = ran.answer["verification"]
    assert (ran.status, ran.err, found["verdict"]) == (2, "", "damaged")
    ids = [each["id"] for each in found["findings"]]
    assert ids.count("convert.swapped") == 4
    assert {"convert.not_finite", "convert.missing_tensor", "convert.not_carried"} <= set(ids)
    assert found["parameters"] > 0 and found["bytes_read"] > 0
    assert all(each["message"] for each in found["findings"])


def test_json_of_plan_adds_up(here: Path) -> None:
    write_run_folder(make_run(ep=8), here / "run")
    answer = convert("plan", "run", "--json").answer
    assert answer["format_version"] == "1.0"
    for way in answer["conversion"]["ways"]:
        for amount in ("gpu_memory_bytes", "host_memory_bytes", "seconds"):
            terms: dict[str, Any] = dict(way[amount])
            assert terms.pop("total") == pytest.approx(sum(terms.values()))
    assert set(answer["conversion"]["recommended"]) == {"to_mcore", "to_hf"}
    assert {each["id"] for each in answer["assumptions"]} >= {"conversion.disk"}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["empty"], "empty holds no weights"),
        (["checkpoint", "--trained"], "--trained needs --source"),
        (["checkpoint", "--adapter", "source"], "--adapter needs --source"),
        (
            ["checkpoint", "--source", "source", "--trained", "--adapter", "source"],
            "--trained and --adapter exclude each other",
        ),
        (["checkpoint", "--source", "source", "--adapter", "source"], "adapter_config.json"),
        (["mcore", "--source", "source", "--trained"], "--trained is for checkpoints in Hugging"),
        (["checkpoint", "--source", "nowhere"], "nowhere is no folder"),
        (["bare"], "bare/config.json cannot be read"),
        (["adapter", "--source", "source", "--trained"], "--trained is for whole models"),
        (["adapter"], "lora_alpha"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_mistake_is_one_sentence(
    here: Path, words: list[str], wanted: str, as_json: bool
) -> None:
    (here / "empty").mkdir()
    (here / "mcore" / "iter_0000001").mkdir(parents=True)
    write_checkpoint(here / "bare")
    (here / "bare" / "config.json").unlink()
    (here / "adapter").mkdir()
    (here / "adapter" / "adapter_config.json").write_text("{}")
    shutil.copy(min(here.glob("bare/*.safetensors")), here / "adapter")
    ran = convert("verify", *words, *(["--json"] if as_json else []))
    assert ran.status == 2
    if as_json:
        assert wanted in json.loads(ran.out)["error"]["message"]
        return
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert wanted in ran.err


def test_a_model_of_the_first_layers_is_written_once(here: Path) -> None:
    first = convert("first-layers", "source", "first", "--json")
    assert (first.status, first.answer["tensors"]) == (0, 45)
    other = convert("first-layers", "source", "other", "--layers", "1")
    assert other.out == "24 tensors written to other\n"
    again = convert("first-layers", "source", "first")
    assert (again.status, again.err.splitlines()) == (
        2,
        ["error: first exists already; give another folder"],
    )
