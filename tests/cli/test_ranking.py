"""`plan` about ties, the Pareto front, how few GPUs and how long packs."""

import json
from pathlib import Path

import pytest
from console import EXAMPLE, plan
from golden_files import check_screen

FEW = ("--gpus", "4", "--model", "Qwen2.5-7B")
COMMANDS: dict[str, tuple[str, ...]] = {
    "pareto": (*FEW, "--pareto", "--top", "2"),
    "fewest-gpus": ("--gpus", "8", "--model", "Qwen2.5-7B", "--fewest-gpus", "--pareto"),
    "longest-sequence": (
        *("--gpus", "2", "--model", "Qwen2.5-7B", "--tuner-type", "lora", "--longest-sequence"),
    ),
}
SCRIPTS = ("--model-path", "/data/model", "--dataset", "/data/a.jsonl", "--output-dir")


@pytest.mark.parametrize("columns", [pytest.param(80, marks=pytest.mark.slow), 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_golden_text(name: str, columns: int) -> None:
    check_screen(name, COMMANDS[name], columns)


def test_the_tied_begin_with_the_first_and_the_reason_names_what_to_try() -> None:
    answer = plan(*EXAMPLE, "--json").answer
    ties, first = answer["ties"], answer["plans"][0]
    assert ties["numbers"][0] == 1 and ties["numbers"] == sorted(ties["numbers"])
    assert ties["try"][0]["layout"] == first["layout"]
    reasons = {reason["id"]: reason["values"] for reason in first["reasons"]}
    assert reasons["reason.tied"]["number"] == ties["try"][1]["number"] in ties["numbers"]
    assert reasons["reason.tied"]["others"] == len(ties["numbers"]) - 1
    assert first["reasons"][-1]["id"] == "reason.limit"
    others = [reason["id"] for other in answer["plans"][1:] for reason in other["reasons"]]
    assert others and "reason.tied" not in others


def test_a_picked_plan_is_the_one_of_that_number(tmp_path: Path) -> None:
    """Also where it is not shown."""
    ranked = plan(*FEW, "--json", "--top", "3").answer["plans"]
    for number in (1, 3):
        folder = tmp_path / str(number)
        ran = plan(*FEW, "--top", "1", *SCRIPTS, folder, "--pick", number)
        assert ran.status == 0
        written = json.loads((folder / "run.json").read_text())["plan"]
        assert written["layout"] == ranked[number - 1]["layout"]


def test_both_commands_that_are_next_write_what_is_to_be_tried() -> None:
    answer = plan(*FEW, "--json").answer
    lines = plan(*FEW, "--pareto", columns=200).out.partition("\nNext")[2].split("plan ")[1:]
    first, second = (" ".join(line.split()) for line in lines)
    scripts = "--model-path MODEL --dataset DATA --output-dir runs/NAME"
    assert first == f"--gpus 4 --model Qwen2.5-7B {scripts}"
    assert second == first.replace("NAME", f"OTHER --pick {answer['ties']['try'][1]['number']}")


@pytest.mark.parametrize(
    "question", [("--gpus=8", "--fewest-gpus"), ("--fewest-gpus", "--global-batch-size", "16")]
)
def test_the_command_that_is_next_asks_for_what_was_answered(question: tuple[str, ...]) -> None:
    asked = (*question, "--model", "Qwen2.5-7B", "--recompute", "full")
    printed = plan(*asked, columns=200).out.partition("\nNext")[2]
    command, _, scripts = " ".join(printed.split("plan ")[1].split()).partition(" --model-path ")
    answer = "--gpus 4 --nodes 1 --seq-length 8192 --global-batch-size 16"
    assert command == f"{answer} --model Qwen2.5-7B --recompute full" and scripts
    layouts = [
        [each["layout"] for each in plan(*words, "--json").answer["plans"]]
        for words in (command.split(), asked)
    ]
    assert layouts[0] == layouts[1]


@pytest.mark.parametrize("name", ["fewest-gpus", "longest-sequence"])
def test_the_answer_stands_among_the_trials(name: str) -> None:
    answer = plan(*COMMANDS[name], "--json").answer
    cluster, workload = answer["inputs"]["cluster"], answer["inputs"]["workload"]
    assert [
        trial["verdict"]
        for trial in answer["reach"]["trials"]
        if trial["layout"] == answer["plans"][0]["layout"]
        and trial["seq_length"] == workload["seq_length"]
        and trial["num_gpus"] == cluster["num_nodes"] * cluster["gpus_per_node"]
    ] == ["fits"]
    numbers = {point["num_gpus"] for point in answer["pareto"] or []}
    assert len(numbers) == (2 if name == "fewest-gpus" else 0)


@pytest.mark.parametrize(
    ("words", "id_"),
    [
        (("--fewest-gpus", "--nodes", "2"), "input.not_together"),
        (("--fewest-gpus", "--longest-sequence"), "input.not_together"),
        (("--gpus", "2", "--longest-sequence", "--seq-length", "4096"), "input.not_together"),
        (("--longest-sequence",), "input.missing"),
        (("--fewest-gpus", "--gpus", "0"), "input.out_of_range"),
        (("--gpus", "4", "--pick", "2"), "input.needs"),
        (("--gpus", "4", *SCRIPTS, "runs/never", "--pick", "0"), "input.out_of_range"),
        (("--gpus", "4", *SCRIPTS, "runs/never", "--pick", "9999"), "input.out_of_range"),
    ],
)
def test_a_mistake_is_named(words: tuple[str, ...], id_: str) -> None:
    ran = plan(*words, "--model", "Qwen2.5-7B", "--json")
    assert (ran.status, ran.answer["error"]["id"]) == (2, id_)


def test_nothing_fits_up_to_the_gpus_that_there_are() -> None:
    ran = plan("--gpus", "4", "--model", "Qwen3-30B-A3B", "--fewest-gpus", "--json")
    assert (ran.status, ran.answer["error"]["id"]) == (3, "nofit.error")
