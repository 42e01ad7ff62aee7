"""Every argument list that scripts hold: ms-swift's own parser and classes accept it.

And megatron-core builds the layers that the plan says, on the first and on the last rank.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import Case, golden_cases

from convert.direction import Direction, has_single_process
from convert.scripts import PRECISION, conversion_args, smoke_args
from convert.sizes import conversion_sizes
from launch.arguments import train_args
from planner.dialects import argv, load_dialect, translate
from planner.layout import PipelineSplit
from planner.run import Run
from stack.real_stack import RealStack

pytestmark = pytest.mark.stack

DIALECT = load_dialect("4.6")
CASES = [case for case in golden_cases() if case.run.stack.dialect == "4.6"]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def at_home(run: Run, model_folders: dict[str, Path], workspace: Path) -> Run:
    """Return the run with paths that exist here."""
    (workspace / "mcore").mkdir(exist_ok=True)
    model = str(model_folders[run.model.name])
    site = replace(run.site, model_path=model, dataset=("a.jsonl",), workspace=str(workspace))
    return replace(run, site=site)


def layers(answer: dict[str, Any]) -> list[list[int]]:
    """Return the decoder layers of each chunk that was built."""
    assert answer["ok"], f"{answer['stage']} {answer['where']}: {answer['error']}"
    return [chunk["layers"] for chunk in answer["chunks"]]


def planned(split: PipelineSplit, stage: int) -> list[list[int]]:
    """Return the decoder layers of each chunk of a stage of the plan."""
    return [list(chunk) for chunk in split.layer_ids(stage)]


@each_case
def test_training_is_accepted_and_builds_the_plans_layers(
    stack: RealStack, model_folders: dict[str, Path], tmp_path: Path, case: Case
) -> None:
    run = at_home(case.run, model_folders, tmp_path)
    words = argv(translate(train_args(run), DIALECT))
    split, world_size = run.plan.layout.split, run.plan.layout.world_size
    for rank, stage in ((0, 0), (world_size - 1, split.num_stages - 1)):
        answer = stack.parse(f"megatron {run.task}", words, world_size, rank=rank, build=True)
        assert layers(answer) == planned(split, stage)


@each_case
@pytest.mark.parametrize("direction", Direction)
def test_conversion_is_accepted_and_builds_its_own_layers(
    stack: RealStack,
    model_folders: dict[str, Path],
    tmp_path: Path,
    case: Case,
    direction: Direction,
) -> None:
    run = at_home(case.run, model_folders, tmp_path)
    words = converting(run, direction, tmp_path, single_process=False)
    sizes = conversion_sizes(run)
    last = sizes.world_size - 1
    answer = stack.parse("megatron export", words, sizes.world_size, rank=last, build=True)
    assert layers(answer) == planned(sizes.split, sizes.split.num_stages - 1)


IN_ONE_PROCESS = [
    pytest.param(case.run, direction, id=f"{case.name}-{direction}")
    for case in CASES
    for direction in Direction
    if has_single_process(case.run, direction)
]


@pytest.mark.parametrize(("run", "direction"), IN_ONE_PROCESS)
def test_conversion_in_one_process_is_accepted(
    stack: RealStack,
    model_folders: dict[str, Path],
    tmp_path: Path,
    run: Run,
    direction: Direction,
) -> None:
    run = at_home(run, model_folders, tmp_path)
    words = converting(run, direction, tmp_path, single_process=True)
    answer = stack.parse("swift export", words, 1)
    assert answer["ok"], answer["error"]


@pytest.mark.parametrize("name", ["moe-full-4.6", "moe-lora-4.6"])
def test_what_a_conversion_does_on_demand_is_accepted(
    stack: RealStack, model_folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    (run,) = (at_home(case.run, model_folders, tmp_path) for case in CASES if case.name == name)
    back = converting(run, Direction.TO_HF, tmp_path, single_process=False)
    words = [*back, *argv(PRECISION), "--merge_lora", "false", "--save_missing_weights", "true"]
    answer = stack.parse("megatron export", words, conversion_sizes(run).world_size)
    assert answer["ok"], answer["error"]
    arguments = answer["arguments"]
    assert (arguments["test_convert_precision"], arguments["merge_lora"]) == (True, False)
    smoke = stack.parse("swift infer", ["--model", run.site.model_path, *argv(smoke_args(run))], 1)
    # the worker is one of several processes, in which ms-swift refuses to ask
    assert (smoke["unknown"], smoke["stage"]) == ([], "post-init")
    assert "interactive interfaces" in smoke["error"]


def converting(
    run: Run, direction: Direction, workspace: Path, *, single_process: bool
) -> list[str]:
    """Return the words of a conversion, with those that the script finds out."""
    args = conversion_args(run, direction, single_process=single_process)
    found = {'"$target.partial"': str(workspace / "new"), '"$checkpoint"': str(workspace / "mcore")}
    for flag, value in args.items():
        if isinstance(value, str):
            args[flag] = found.get(value, value)
    return argv(translate(args, DIALECT, single_process=single_process))
