"""`plan models`: what is known, a model by part, and what the planner does not do with some."""

import pytest
from console import plan
from golden_files import check_golden

from planner.architectures import ARCHITECTURES
from planner.model_files import BundledModel, known_models, resolve_model
from planner.parameters import model_parameters


def test_golden_list_of_models() -> None:
    ran = plan("models")
    assert (ran.status, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 100
    check_golden("cli/models.txt", ran.out)


@pytest.mark.parametrize("name", ["DeepSeek-V3", "Qwen3.5-35B-A3B", "Mixtral-8x7B-v0.1"])
def test_golden_parts_of_a_model(name: str) -> None:
    ran = plan("models", name)
    assert (ran.status, ran.err) == (0, "")
    check_golden(f"cli/models-{name}.txt", ran.out)


def test_the_list_as_json_has_every_model_and_type() -> None:
    answer = plan("models", "--json").answer

    assert [model["name"] for model in answer["models"]] == sorted(
        (m.name for m in known_models()), key=str.casefold
    )
    llama = next(each for each in answer["models"] if each["name"].startswith("Llama-4-Scout"))
    assert "total_parameters" not in llama
    vision = resolve_model(llama["name"]).vision
    assert vision is not None
    assert llama["total"] - llama["total_without_mtp_and_vision"] == vision.parameters
    assert set(answer["architectures"]) == set(ARCHITECTURES)


@pytest.mark.parametrize("bundled", known_models(), ids=lambda bundled: bundled.name)
def test_parts_as_json_add_up(bundled: BundledModel) -> None:
    name = bundled.name
    answer = plan("models", name, "--json").answer
    model = resolve_model(name)

    assert sum(answer["parameters"].values()) == answer["total"]
    with_mtp = sum(model_parameters(model, mtp_num_layers=model.mtp_num_layers).values())
    assert answer["total"] + answer["mtp_parameters"] == with_mtp
    assert answer["active"] <= answer["total"]


def test_a_model_that_nobody_knows_is_one_line() -> None:
    ran = plan("models", "Qwen4-Nothing")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("name", ["GLM-5", "Qwen3-Next-80B-A3B-Instruct"])
@pytest.mark.parametrize("command", [(), ("check",)])
def test_attention_that_is_not_modelled_is_refused_by_name(
    command: tuple[str, ...], name: str
) -> None:
    ran = plan(*command, "--gpus", "64", "--model", name)
    attention = resolve_model(name).unplanned_attention
    assert attention is not None

    assert (ran.status, ran.out) == (2, "")
    assert attention in ran.err and f"plan models {name}" in ran.err


def test_a_model_that_ms_swift_cannot_train_is_planned_and_no_script_is_written(
    tmp_path: object,
) -> None:
    asked = ("--gpus", "16", "--model", "Mixtral-8x7B-v0.1")
    planned = plan(*asked)
    assert planned.status == 0
    assert "cannot train Mixtral-8x7B-v0.1 today" in " ".join(planned.out.split())
    assert "--output-dir" not in planned.out

    folder = f"{tmp_path}/run"
    refused = plan(*asked, "--output-dir", folder, "--model-path", "m", "--dataset", "d")
    assert (refused.status, refused.out) == (2, "")
    assert "no scripts are written" in refused.err


def test_a_release_that_does_not_know_a_model_yet_gets_no_script(tmp_path: object) -> None:
    asked = ("--gpus", "16", "--model", "OLMoE-1B-7B-0125-Instruct", "--tuner-type", "lora")
    scripts = ("--model-path", "m", "--dataset", "d", "--output-dir", f"{tmp_path}/run")
    refused = plan(*asked, *scripts, "--stack", "ms-swift-3.12")

    assert (refused.status, refused.out) == (2, "")
    assert "ms-swift 3.12.6 does not know the type olmoe, 4.0 does" in refused.err
    assert plan(*asked, *scripts).status == 0


def test_what_was_not_measured_is_named_beside_the_error_of_memory() -> None:
    asked = ("--gpus", "16", "--model", "gpt-oss-20b", "--set", "fp8_format=hybrid")
    text = " ".join(plan(*asked).out.split())

    named = text.partition("none of them with ")[2].partition(";")[0].split(", ")
    assert {"gpt_oss", "fp8_format"} <= set(named)
