"""Every model that ms-swift trains: what ranks of random layouts hold is what the stack builds."""

from functools import cache
from pathlib import Path

import pytest

from planner.model_files import resolve_model
from planner.workload import TunerType, Workload
from stack.counted import assert_built_as_counted
from stack.layouts import Case
from stack.random_layouts import TRAINED, random_cases
from stack.real_stack import RealStack

pytestmark = pytest.mark.stack

# Of each model; `make test` looks at one layout of one model of each type.
LAYOUTS = 12
ONE_OF_EACH_TYPE = {resolve_model(name).model_type: name for name in reversed(TRAINED)}.values()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        pytest.param(
            name,
            place,
            marks=[] if place == 0 and name in ONE_OF_EACH_TYPE else [pytest.mark.slow],
        )
        for name in TRAINED
        for place in range(LAYOUTS)
    ],
)
def test_parameters_of_every_stage_are_those_of_the_built_model(
    stacks: dict[str, RealStack], model_folders: dict[str, Path], name: str, place: int
) -> None:
    case = _cases(name)[place]
    workload = Workload(mtp_num_layers=case.mtp_num_layers)
    stages = list(range(case.layout.pp))
    assert_built_as_counted(stacks, model_folders[name], case, workload, stages)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH_TYPE)
def test_adapters_of_every_stage_are_those_of_the_built_model(
    stacks: dict[str, RealStack], model_folders: dict[str, Path], name: str
) -> None:
    """LoRA on all linear layers, which has no ETP."""
    drawn = random_cases(name, LAYOUTS, TunerType.LORA)
    case = next(case for case in drawn if case.layout.tp > 1)
    workload = Workload(tuner_type=TunerType.LORA, mtp_num_layers=case.mtp_num_layers)
    stages = list(range(case.layout.pp))
    assert_built_as_counted(stacks, model_folders[name], case, workload, stages)


@cache
def _cases(name: str) -> list[Case]:
    return random_cases(name, LAYOUTS)
