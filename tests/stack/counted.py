"""Holds what the planner counts for the ranks of a layout against what the stack builds."""

import random
from pathlib import Path
from typing import Any

from planner.dialects import CANONICAL_RELEASE, model_hint
from planner.model_files import resolve_model
from planner.model_spec import ModelSpec
from planner.parameters import rank_parameters
from planner.recipe import load_recipe
from planner.stack import load_stack
from planner.swift_args import training_args
from planner.workload import Workload
from stack.layouts import Case
from stack.real_stack import RealStack, ask_all

SIZES = ("total", "expert", "trainable_total", "trainable_expert")


def assert_built_as_counted(
    stacks: dict[str, RealStack], folder: Path, case: Case, workload: Workload, stages: list[int]
) -> None:
    """Hold the counts of a layout, given to the stack as the planner emits it.

    Of each stage one rank is built: which one, chance decides, the same at every call.
    """
    model, layout = resolve_model(case.model), case.layout
    recipe = load_recipe(workload.tuner_type)
    flags = training_args(model, layout, workload, load_stack(), recipe)
    hint = model_hint(model.model_type, str(folder), CANONICAL_RELEASE)
    if hint is not None:
        flags |= {"model_type": hint.model_type, "template": hint.template}
    if model.vision is not None:  # flash attention is not installed on a CPU
        flags["vit_attn_impl"] = "sdpa"
    a_stage = layout.world_size // layout.pp
    choose = random.Random(repr(case))
    ranks = [stage * a_stage + choose.randrange(a_stage) for stage in stages]

    def build(stack: RealStack) -> list[dict[str, Any]]:
        return [_built(stack.build(folder, layout.world_size, flags, rank)) for rank in ranks]

    expected = [_expected(model, case, workload, stage) for stage in stages]
    assert ask_all(stacks, build) == dict.fromkeys(stacks, expected)


def _expected(model: ModelSpec, case: Case, workload: Workload, stage: int) -> dict[str, Any]:
    """What the planner says that any rank of a stage holds."""
    held = rank_parameters(model, case.layout, workload, stage)
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
