"""What loading, saving and resuming take, and what a plan says where they do not fit."""

import json
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from problems import Case, cases, problem

from planner.assumptions import assumptions
from planner.evaluate import Evaluator
from planner.host_memory import host_memory_bytes
from planner.layer_shape import BF16
from planner.layout import Layout, Recompute
from planner.memory import StageMemory, device_used
from planner.model_config import model_spec_from_config
from planner.parameters import rank_parameters
from planner.problem import Problem
from planner.reasons import reasons
from planner.saving import checkpoint_bytes
from planner.split import even_split
from planner.topology_files import load_topology
from planner.units import GIB
from planner.workload import TunerType

RUN = Path(__file__).parents[2] / "benchmarks" / "launch" / "two_nodes_two_h200.jsonl"
# The model of that run: `Sizes` in what it says of itself.
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "moe_intermediate_size": 512,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "num_hidden_layers": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


@given(cases())
def test_loading_is_least_and_what_is_made_again_comes_on_top(case: Case) -> None:
    for stage in case.batch.memory(case.layout.recompute):
        assert stage.loading < stage.after_build < stage.resuming
        assert stage.steady <= stage.saving
        assert stage.device_used < stage.device_used_resumed


@pytest.mark.parametrize("setting", ["no_save_optim=true", "no_load_optim=true"])
def test_checkpoints_without_states_make_nothing_again(setting: str) -> None:
    """Neither where they are not saved nor where they are not read, which a plan advises."""
    case = problem(settings=(setting,))
    layout = layout_of(case, ep=8)
    for stage in Evaluator(case).batch(layout).memory(layout.recompute):
        assert stage.resuming == stage.after_build
        assert stage.device_used == stage.device_used_resumed
    assert "memory.resumed" not in {each.id for each in assumptions(case, layout, ())}


def layout_of(case: Problem, ep: int) -> Layout:
    split = even_split(case.model.num_layers, 1)
    assert split is not None
    return Layout(
        world_size=case.cluster.num_gpus,
        ep=ep,
        global_batch_size=case.workload.global_batch_size,
        recompute=Recompute(granularity="full", method="uniform", num_layers=1),
        split=split,
    )


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, None),
        ({"device_used_resumed": 101}, "reason.may_not_resume"),
        ({"device_used_resumed": 101, "resuming": 100}, "reason.cannot_resume"),
        ({"device_used_resumed": 101, "saving": 100}, "reason.cannot_save"),
        ({"device_used_resumed": 101, "peak_reserved": 101}, None),
    ],
)
def test_a_plan_says_what_does_not_fit_where_training_does(
    fields: dict[str, int], found: str | None
) -> None:
    case = problem()
    layout = layout_of(case, ep=8)
    (first, *_) = Evaluator(case).batch(layout).memory(layout.recompute)
    small = {"peak_reserved": 1, "nccl": 0, "saving": 1, "resuming": 1, "device_used_resumed": 1}
    sizes: dict[str, Any] = {name: size * GIB for name, size in (small | fields).items()}
    said = reasons(case, layout, [replace(first, **sizes, usable=100 * GIB)])

    names = [each.id for each in said if each.id.endswith(("_save", "_resume"))]
    assert names == ([found] if found else [])
    assert all("a plan" in each.message for each in said if each.id == found)


def test_what_a_checkpoint_cannot_be_read_into_is_certain() -> None:
    """Most communicators are made in the first step, after it was read."""
    case = problem()
    layout = layout_of(case, ep=8)
    (first, *_) = Evaluator(case).batch(layout).memory(layout.recompute)
    stage = replace(first, resuming=first.usable - first.nccl // 2, peak_reserved=1, saving=1)

    said = [each.id for each in reasons(case, layout, [replace(stage, device_used_resumed=1)])]
    assert first.nccl > 4 * GIB
    assert "reason.cannot_resume" not in said


def test_device_use_after_resuming_is_that_of_the_run_that_was_measured() -> None:
    """Reserved before, and in the steps that were done again: `memory(GiB)` of a real run."""
    run = json.loads(RUN.read_text(encoding="utf-8").splitlines()[0])
    before, after = (
        {step["step"]: step["memory(GiB)"] for step in run[name]}
        for name in ("steps", "steps_resumed")
    )
    stage = predicted()
    beside = device_used(0, stage.nccl)

    assert isclose(stage.peak_reserved / GIB, before[7], rel_tol=0.06)
    assert isclose((stage.device_used_resumed - beside) / GIB, after[7], rel_tol=0.06)
    assert 0.8 < (after[7] - before[7]) * GIB / (stage.device_used_resumed - stage.device_used) < 1


def predicted() -> StageMemory:
    model = model_spec_from_config(CONFIG, name="two nodes", origin="two nodes")
    base = problem(
        model,
        gpus=2,
        stack="gpu-kit-2026-11",
        seq_length=1024,
        global_batch_size=16,
        routing_imbalance=1.0,
    )
    case = replace(base, cluster=load_topology("h100-8x-ib", 2, 1))
    split = even_split(2, 1)
    assert split is not None
    layout = Layout(world_size=2, ep=2, global_batch_size=16, recompute=Recompute(), split=split)
    (stage,) = Evaluator(case).batch(layout).memory(layout.recompute)
    return stage


def test_a_host_that_saves_adapters_copies_no_base_model() -> None:
    """As many as a checkpoint has: of LoRA the base model stays where it is."""
    case = problem(gpus=8, tuner_type=TunerType.LORA)
    layout = layout_of(case, ep=8)
    ranks = [rank_parameters(case.model, layout, case.workload, 0)]
    host = host_memory_bytes(case, layout, ranks)

    copied = host["saving"] - host["training"]
    assert copied < 8 * BF16 * (ranks[0].total - ranks[0].trainable)
    # every rank has the adapters of all that is not an expert, with moments of its share
    assert checkpoint_bytes(case) < copied < 3 * checkpoint_bytes(case)
