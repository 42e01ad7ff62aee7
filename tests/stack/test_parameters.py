"""The parameters that the planner counts for a rank are those that the stack builds."""

import random
from pathlib import Path

import pytest

from planner.model_files import resolve_model
from planner.workload import TunerType, Workload
from stack.counted import assert_built_as_counted
from stack.layouts import CASES, LORA_CASES, Case
from stack.real_stack import RealStack

pytestmark = pytest.mark.stack


def kinds_of_stages(case: Case) -> list[int]:
    """The first and last stage, one of each other kind, and two more anywhere."""
    model, layout = resolve_model(case.model), case.layout
    last = layout.pp - 1
    kinds: dict[object, int] = {}
    for stage in range(layout.pp):
        moe = tuple(sum(model.moe_layers[i] for i in c) for c in layout.split.layer_ids(stage))
        sizes = tuple(len(chunk) for chunk in layout.split.layer_ids(stage))
        kinds.setdefault((stage == 0, stage == last, sizes, moe), stage)
    more = random.Random(layout.pp).sample(range(layout.pp), min(2, layout.pp))
    return sorted({*kinds.values(), *more})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_and_layers_of_ranks_are_those_of_the_built_model(
    stacks: dict[str, RealStack], model_folders: dict[str, Path], case: Case
) -> None:
    """Full fine-tuning: total, routed experts, and the layers of each chunk."""
    workload = Workload(mtp_num_layers=case.mtp_num_layers)
    stages = kinds_of_stages(case)
    assert_built_as_counted(stacks, model_folders[case.model], case, workload, stages)


@pytest.mark.parametrize("case", LORA_CASES, ids=str)
def test_adapters_of_ranks_are_those_of_the_built_model(
    stacks: dict[str, RealStack], model_folders: dict[str, Path], case: Case
) -> None:
    """LoRA on all linear layers: what is frozen and what is trained."""
    workload = Workload(tuner_type=TunerType.LORA, mtp_num_layers=case.mtp_num_layers)
    stages = kinds_of_stages(case)
    assert_built_as_counted(stacks, model_folders[case.model], case, workload, stages)
