"""Plans of real searches: the stack accepts their arguments and builds what they say.

Full fine-tuning and LoRA of the four models, on clusters that hold them: the best layout, and of
full fine-tuning some others that fit.
"""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from planner.evaluate import Evaluator
from planner.inputs import Request, to_problem
from planner.plan import Plan
from planner.planning import make_plan
from planner.search import search
from planner.workload import TunerType
from stack.real_stack import MEGATRON_CORES, RealStack, ask_all

pytestmark = pytest.mark.stack

SAMPLES = {TunerType.FULL: 4, TunerType.LORA: 1}  # adapters are slow to build
REQUESTS = {
    "qwen3": Request(model="Qwen3-30B-A3B", gpus=16),
    "qwen3-lora": Request(model="Qwen3-30B-A3B", gpus=8, tuner_type=TunerType.LORA),
    "large": Request(model="Qwen3-235B-A22B", gpus=64, global_batch_size=64),
    "deepseek": Request(
        model="DeepSeek-V3",
        gpus=256,
        global_batch_size=256,
        mtp_num_layers=1,
        topology="h200-8x-ib",
    ),
    "deepseek-lora": Request(
        model="DeepSeek-V3", gpus=64, global_batch_size=64, tuner_type=TunerType.LORA
    ),
    "dense": Request(model="Qwen2.5-7B", gpus=8),
}


@cache
def _plans(name: str, megatron_core: str) -> list[Plan]:
    """The best plan of a request under a megatron-core, and some others."""
    problem = to_problem(REQUESTS[name])
    problem = replace(problem, stack=replace(problem.stack, megatron_core=megatron_core))
    evaluator = Evaluator(problem)
    first, *others = search(evaluator).ranked
    chosen = [first, *random.Random(name).sample(others, SAMPLES[problem.workload.tuner_type] - 1)]
    return [make_plan(evaluator, candidate.layout(problem)) for candidate in chosen]


def _built(stack: RealStack, folder: Path, plan: Plan, stage: int) -> dict[str, Any]:
    world_size = plan.layout.world_size
    rank = (stage + 1) * world_size // plan.layout.pp - 1
    chunks = stack.build(folder, world_size, plan.args, rank)
    return {
        "layer_ids": [chunk["layers"] for chunk in chunks],
        "parameters": sum(chunk["total"] for chunk in chunks),
        "trainable_parameters": sum(chunk["trainable_total"] for chunk in chunks),
    }


@pytest.mark.parametrize("name", REQUESTS)
def test_the_stack_builds_what_plans_say(
    stacks: dict[str, RealStack], model_folders: dict[str, Path], name: str
) -> None:
    """First and last stage of each plan, with all arguments as they would be emitted."""
    folder = model_folders[REQUESTS[name].model]
    for version in MEGATRON_CORES:  # before the stacks are asked: searches share one cache
        _plans(name, version)

    def differences(stack: RealStack) -> list[tuple[Any, ...]]:
        found = []
        for plan in _plans(name, stack.megatron_core):
            for stage in {0, plan.layout.pp - 1}:
                built = _built(stack, folder, plan, stage)
                said = {key: getattr(plan.stages[stage], key) for key in built}
                if built != said:
                    found.append((plan.layout, stage, built, said))
        return found

    assert ask_all(stacks, differences) == {version: [] for version in stacks}
