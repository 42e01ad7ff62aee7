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


def test_a_first_plan_that_may_not_be_resumed_is_named_with_one_that_can(tmp_path: Path) -> None:
    """At the top, and --pick writes the other."""
    answer = plan(*EXAMPLE, "--json").answer
    number = answer["search"]["resuming"]
    resumes = [each["resumes"] for each in answer["plans"]]
    assert resumes.index("yes") == number - 1 == 1
    assert resumes[0] == "maybe"
    top = " ".join(plan(*EXAMPLE).out.partition("Plan 1")[0].split())
    assert "plan 1 may not be able to go on after an interruption" in top
    assert f"the fastest that can is plan {number} (pp2 vpp8 ep8, recompute full)" in top
    folder = tmp_path / "run"
    assert plan(*EXAMPLE, *SCRIPTS, folder, "--pick", number).status == 0
    assert json.loads((folder / "run.json").read_text())["plan"]["resumes"] == "yes"


def test_what_was_asked_not_to_be_resumed_is_not_spoken_of() -> None:
    ran = plan(*EXAMPLE, "--set", "no_save_optim=true")
    assert "Resuming" not in ran.out
    answer = plan(*EXAMPLE, "--set", "no_save_optim=true", "--json").answer
    assert {each["resumes"] for each in answer["plans"]} == {"no"}


def test_the_fewest_gpus_may_be_too_few_to_resume() -> None:
    """The answer says so, and where a plan can, or that none of those tried is known to."""
    asked = ("--model", "Qwen3-30B-A3B", "--fewest-gpus")
    few = " ".join(plan("--gpus", "8", *asked).out.partition("tp pp vpp")[0].split())
    assert "Plan 1 cannot go on after an interruption there, and no plan of those" in few
    more = " ".join(plan("--gpus", "16", *asked).out.partition("tp pp vpp")[0].split())
    assert "16 GPUs are the fewest of those tried that fit;" in more
    assert "Plan 1 may not be able to go on after an interruption there; plan 2 can" in more
    trials = plan("--gpus", "16", *asked, "--json").answer["reach"]["trials"]
    assert [each["resumes"] for each in trials][-1] == "maybe"
    assert trials[-1]["resuming"] == 2


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
