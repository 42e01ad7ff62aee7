"""Every rule of the planner has a layout that breaks it alone, and the stack proves it right.

A rule is right because the stack refuses the layout, or, of rules that Megatron forgets, because
the layout is not what it says: see FORGOTTEN.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.constraints import RULES
from planner.layout import Layout, Recompute
from planner.parameters import rank_parameters
from planner.setting_rules import SETTING_RULES
from planner.workload import TunerType
from stack.candidates import Candidate, candidate
from stack.layouts import even, split
from stack.real_stack import MEGATRON_CORES, RealStack

pytestmark = pytest.mark.stack

QWEN3, DEEPSEEK, DENSE = "short-qwen3", "short-deepseek", "short-qwen2.5"
ODD, ODD_DENSE, PRIME_DENSE = "odd-qwen3", "odd-qwen2.5", "prime-qwen2.5"
BIASED = "short-gpt-oss"


def _selective(*modules: str) -> Recompute:
    return Recompute(granularity="selective", modules=modules)


def _too_few_layers() -> Candidate:
    """More chunks than layers, which no split can say."""
    broken = candidate(QWEN3, 24)
    return replace(broken, sizes=replace(broken.sizes, pp=24, split=None))


def _lost_layers() -> Candidate:
    """A first and a last stage that overlap: 2 + x + 12 layers of 10."""
    broken = candidate(ODD, 3, [[2], [4], [4]])
    return replace(broken, sizes=replace(broken.sizes, split=split([[2], [4], [3]])))


BREAKS: dict[str, Candidate] = {
    "world_dense": candidate(QWEN3, 6, parallel={"tp": 4, "ep": 2}),
    "world_expert": candidate(QWEN3, 6, parallel={"ep": 4}),
    "heads_tp": candidate(DENSE, 8, parallel={"tp": 8}),
    "query_groups_tp": candidate(ODD, 4, parallel={"tp": 4, "ep": 2}),
    "ffn_tp": candidate(ODD_DENSE, 2, parallel={"tp": 2}),
    "dense_model": candidate(DENSE, 8, parallel={"ep": 4, "etp": 2}),
    "lora_etp": candidate(QWEN3, 2, parallel={"tp": 2, "etp": 2}, tuner_type=TunerType.LORA),
    "bias_etp": candidate(BIASED, 2, parallel={"tp": 2, "etp": 2}),
    "experts_ep": candidate(QWEN3, 3, parallel={"ep": 3}),
    "expert_ffn_etp": candidate(ODD, 16, parallel={"ep": 2, "etp": 8}),
    "experts_without_ep": candidate(QWEN3, 2, parallel={"tp": 2}),
    "sequence_shards": candidate(QWEN3, 2, parallel={"tp": 2, "ep": 2}, seq_length=8191),
    "mtp_available": candidate(DEEPSEEK, 1, mtp_num_layers=2),
    "dispatcher": candidate(QWEN3, 2, parallel={"ep": 2}, dispatcher="allgather"),
    "layers": _too_few_layers(),
    "split_sum": _lost_layers(),
    "vpp_pp": candidate(QWEN3, 1, even(12, 1, 2)),
    "batch": candidate(QWEN3, 4, global_batch_size=6),
    "vpp_microbatches": candidate(QWEN3, 4, even(12, 4, 3), global_batch_size=6),
    "recompute_modules": candidate(QWEN3, 1, recompute=_selective("attention")),
    "recompute_layernorm": candidate(QWEN3, 1, recompute=_selective("layernorm")),
    "recompute_mla": candidate(QWEN3, 1, recompute=_selective("mla_up_proj")),
    "recompute_num_layers": candidate(
        QWEN3, 1, recompute=Recompute(granularity="full", method="uniform", num_layers=100)
    ),
}


def _holding(version: str) -> list[str]:
    """Rules of legality that hold under a megatron-core."""
    numbers = tuple(int(number) for number in version.split("."))
    return [
        rule.id
        for rule in RULES
        if rule.kind == "illegal"
        and rule.since <= numbers < rule.until
        and rule not in SETTING_RULES  # see test_setting_rules
    ]


def test_every_rule_that_can_be_tried_is_broken_here() -> None:
    """Those of releases that are not installed cannot."""
    assert set(BREAKS) == {rule for version in MEGATRON_CORES for rule in _holding(version)}


@pytest.mark.parametrize("rule", BREAKS)
def test_a_layout_that_breaks_one_rule_is_refused_or_not_what_it_says(
    stack: RealStack, short_folders: dict[str, Path], rule: str
) -> None:
    broken = BREAKS[rule]
    holds = rule in _holding(stack.megatron_core)
    assert [each.id for each in broken.broken(stack.megatron_core)] == [rule] * holds

    folder, world_size = short_folders[broken.model], broken.sizes.world_size
    flags = broken.flags(stack.megatron_core)
    refusals = (stack.refusal(folder, world_size, flags, rank=r) for r in (0, world_size - 1))
    refused = any(refusal is not None for refusal in refusals)
    forgotten = FORGOTTEN.get(rule)

    forgotten = FORGOTTEN.get(rule)
    assert refused == (holds and forgotten is None)
    if forgotten is not None:
        forgotten(stack, folder, broken)


def _expert_sizes_do_nothing(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """A dense model has the same layers with and without them."""
    flags = broken.flags(stack.megatron_core)
    without = {**flags, "expert_model_parallel_size": 1, "expert_tensor_parallel_size": 1}
    with_them, plain = (stack.build(folder, 8, each, rank=0) for each in (flags, without))
    assert with_them == plain


def _copies_of_experts_drift_apart(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """Each reduces gradients of its own tokens alone."""
    flags = broken.flags(stack.megatron_core)
    found = stack.expert_gradients(folder, broken.sizes.world_size, flags)
    assert found == {"reduced_over": [[0]], "copies": [0, 1], "over_tp": False}


def _the_sequence_is_longer(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """Each batch is padded to a multiple of TP."""
    flags = broken.flags(stack.megatron_core)
    multiple = stack.padding(folder, broken.sizes.world_size, flags)
    assert multiple is not None
    assert broken.workload.seq_length % multiple != 0


def _layers_are_trained_from_nothing(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """More prediction layers are built than the checkpoint has."""
    flags = broken.flags(stack.megatron_core)
    (too_many,) = stack.build(folder, 1, flags, rank=0)
    (available,) = stack.build(folder, 1, {**flags, "mtp_num_layers": 1}, rank=0)
    assert too_many["total"] > available["total"]


def _other_layers_are_built(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """The middle stage takes what the first and the last leave."""
    flags, sizes = broken.flags(stack.megatron_core), broken.sizes
    assert sizes.split is not None
    built = [stack.build(folder, sizes.world_size, flags, rank=r)[0]["layers"] for r in range(3)]
    planned = [list(sizes.split.layer_ids(stage)[0]) for stage in range(3)]
    assert built != planned


def _the_schedule_refuses_it(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """In the first step, when all GPUs have been taken."""
    flags = broken.flags(stack.megatron_core)
    refusals = stack.first_step(folder, broken.sizes.world_size, flags)
    assert "micro-batches" in str(refusals["schedule"])


def _only_its_absence_is_refused(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """megatron-core says the rule, but does not compare the number with the layers."""
    flags = broken.flags(stack.megatron_core)
    del flags["recompute_num_layers"]
    refusal = stack.refusal(folder, 1, flags)
    assert "recompute_num_layers must be between 1 and num_layers_per_pipeline_rank" in str(refusal)


FORGOTTEN: dict[str, Callable[[RealStack, Path, Candidate], None]] = {
    "dense_model": _expert_sizes_do_nothing,
    "experts_without_ep": _copies_of_experts_drift_apart,
    "sequence_shards": _the_sequence_is_longer,
    "mtp_available": _layers_are_trained_from_nothing,
    "split_sum": _other_layers_are_built,
    "vpp_microbatches": _the_schedule_refuses_it,
    "recompute_num_layers": _only_its_absence_is_refused,
}


def test_the_rules_that_megatron_forgets_are_the_ones_proven_here() -> None:
    of_sizes = set(RULES) - set(SETTING_RULES)
    assert set(FORGOTTEN) == {rule.id for rule in of_sizes if rule.forgotten}


LORA = {"tuner_type": TunerType.LORA}


@pytest.mark.parametrize(
    ("world_size", "parallel", "workload"),
    [
        (4, {"tp": 2}, {}),
        (4, {"tp": 4, "etp": 2}, {}),
        (4, {"etp": 2}, {}),
        (4, {"tp": 2, "etp": 4}, {}),
        (6, {"tp": 2, "etp": 3}, {}),
        (8, {"cp": 2, "etp": 2}, {}),
        (4, {"tp": 2}, LORA),
        (4, {"tp": 2, "etp": 2}, {}),
        (8, {"tp": 2, "etp": 2, "cp": 2}, {}),
        (4, {"tp": 2, "ep": 2}, {}),
        (8, {"etp": 2, "ep": 2}, {}),
        (4, {"tp": 2, "ep": 2}, LORA),
        (4, {"cp": 2}, LORA),
    ],
)
def test_gradients_of_experts_are_reduced_over_their_copies_where_the_rule_is_kept(
    stack: RealStack,
    short_folders: dict[str, Path],
    world_size: int,
    parallel: dict[str, int],
    workload: dict[str, Any],
) -> None:
    """And over other ranks where it is broken."""
    tried = candidate(QWEN3, world_size, parallel=parallel, **workload)
    flags = tried.flags(stack.megatron_core)
    last = world_size - 1
    found = stack.expert_gradients(short_folders[QWEN3], world_size, flags, rank=last)
    broken = [rule.id for rule in tried.broken(stack.megatron_core)]

    assert found["reduced_over"] and not found["over_tp"]
    kept = all(group == found["copies"] for group in found["reduced_over"])
    assert broken == [] if kept else broken == ["experts_without_ep"]


def test_a_vocabulary_that_tp_does_not_divide_is_padded_and_counted(
    stack: RealStack, short_folders: dict[str, Path]
) -> None:
    """Half a row more for the embedding and half a row for the output layer."""
    padded = candidate(PRIME_DENSE, 2, parallel={"tp": 2})
    assert padded.broken(stack.megatron_core) == []

    problem, sizes = padded.problem(stack.megatron_core), padded.sizes
    flags = padded.flags(stack.megatron_core)
    (chunk,) = stack.build(short_folders[PRIME_DENSE], sizes.world_size, flags, rank=0)
    layout = Layout(world_size=sizes.world_size, tp=sizes.tp, split=sizes.split or split([[1]]))
    assert chunk["total"] == rank_parameters(problem.model, layout, problem.workload, 0).total


def test_an_uneven_sequence_cannot_be_split_over_context_parallel_ranks(
    stack: RealStack, short_folders: dict[str, Path]
) -> None:
    """Of each sequence a rank holds two pieces: 2 * CP must divide it."""
    whole = candidate(QWEN3, 2, parallel={"cp": 2}, seq_length=8192)
    uneven = candidate(QWEN3, 2, parallel={"cp": 2}, seq_length=8190)
    refusals = [
        stack.first_step(short_folders[QWEN3], 2, each.flags(stack.megatron_core))["cp_inputs"]
        for each in (whole, uneven)
    ]

    assert refusals[0] is None
    assert "invalid for input of size" in str(refusals[1])
