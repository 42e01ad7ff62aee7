"""The parameters that the planner counts for a rank are those that the stack builds."""

import random
from pathlib import Path
from typing import Any

import pytest

from planner.layout import Layout
from planner.model_files import resolve_model
from planner.model_spec import ModelSpec
from planner.parameters import rank_parameters
from planner.recipe import load_recipe
from planner.stack import load_stack
from planner.swift_args import training_args
from planner.workload import TunerType, Workload
from stack.layouts import CASES, LORA_CASES, Case
from stack.real_stack import RealStack, ask_all

pytestmark = pytest.mark.stack

SIZES = ("total", "expert", "trainable_total", "trainable_expert")


def _stages(model: ModelSpec, layout: Layout) -> list[int]:
    """The first and last stage, one of each other kind, and two more anywhere."""
    last = layout.pp - 1
    kinds: dict[object, int] = {}
    for stage in range(layout.pp):
        moe = tuple(sum(model.moe_layers[i] for i in c) for c in layout.split.layer_ids(stage))
        sizes = tuple(len(chunk) for chunk in layout.split.layer_ids(stage))
        kinds.setdefault((stage == 0, stage == last, sizes, moe), stage)
    more = random.Random(layout.pp).sample(range(layout.pp), min(2, layout.pp))
    return sorted({*kinds.values(), *more})


def _expected(case: Case, workload: Workload, stage: int) -> dict[str, Any]:
    """What the planner says that any rank of a stage holds."""
    held = rank_parameters(resolve_model(case.model), case.layout, workload, stage)
    return {
        "layers": [list(chunk) for chunk in case.layout.split.layer_ids(stage)],
        "total": held.total,
        "expert": held.expert,
        "trainable_total": held.trainable,
        "trainable_expert": held.trainable_expert,
    }


def _built(chunks: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    sizes = {name: sum(chunk[name] for chunk in chunks) for name in SIZES}
    return {"layers": [chunk["layers"] for chunk in chunks], **sizes}


def _assert_built_as_counted(
    stacks: dict[str, RealStack], folder: Path, case: Case, workload: Workload
) -> None:
    """Holds the counts of a layout, given to the stack as the planner emits it."""
    model, layout = resolve_model(case.model), case.layout
    recipe = load_recipe(workload.tuner_type)
    flags = training_args(model, layout, workload, load_stack(), recipe)
    stages = _stages(model, layout)
    a_stage = layout.world_size // layout.pp
    choose = random.Random(repr(case))
    ranks = [stage * a_stage + choose.randrange(a_stage) for stage in stages]

    def build(stack: RealStack) -> list[dict[str, Any]]:
        return [_built(stack.build(folder, layout.world_size, flags, rank)) for rank in ranks]

    expected = [_expected(case, workload, stage) for stage in stages]
    assert ask_all(stacks, build) == dict.fromkeys(stacks, expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_and_layers_of_ranks_are_those_of_the_built_model(
    stacks: dict[str, RealStack], model_folders: dict[str, Path], case: Case
) -> None:
    """Full fine-tuning: total, routed experts, and the layers of each chunk."""
    workload = Workload(mtp_num_layers=case.mtp_num_layers)
    _assert_built_as_counted(stacks, model_folders[case.model], case, workload)


@pytest.mark.parametrize("case", LORA_CASES, ids=str)
def test_adapters_of_ranks_are_those_of_the_built_model(
    stacks: dict[str, RealStack], model_folders: dict[str, Path], case: Case
) -> None:
    """LoRA on all linear layers: what is frozen and what is trained."""
    workload = Workload(tuner_type=TunerType.LORA, mtp_num_layers=case.mtp_num_layers)
    _assert_built_as_counted(stacks, model_folders[case.model], case, workload)
