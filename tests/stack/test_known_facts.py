"""What the stack builds, refuses and wrongly accepts: facts that the planner's rules rest on."""

from pathlib import Path

import pytest

from stack.real_stack import RealStack, StackError, ask_all

pytestmark = pytest.mark.stack

TP, PP = "tensor_model_parallel_size", "pipeline_model_parallel_size"
EP, ETP = "expert_model_parallel_size", "expert_tensor_parallel_size"
VPP, CP = "virtual_pipeline_model_parallel_size", "context_parallel_size"
FIRST, LAST = "decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"
LAYOUT, BATCH = "pipeline_model_parallel_layout", "global_batch_size"
SP = "sequence_parallel"
GRANULARITY, METHOD, NUM_LAYERS = (
    "recompute_granularity",
    "recompute_method",
    "recompute_num_layers",
)
EMBEDDING_SPLIT = "account_for_embedding_in_pipeline_split"
LOSS_SPLIT = "account_for_loss_in_pipeline_split"
DISPATCHER = "moe_token_dispatcher_type"

Flags = dict[str, object]

QWEN3, LARGE, DEEPSEEK, DENSE = "Qwen3-30B-A3B", "Qwen3-235B-A22B", "DeepSeek-V3", "Qwen2.5-7B"
SHORT = "short-qwen3"

PARAMETERS: list[tuple[str, int, Flags, dict[int, int]]] = [
    (QWEN3, 16, {PP: 2, EP: 8}, {0: 2_582_484_992, 8: 2_582_487_040}),
    (QWEN3, 8, {TP: 2, SP: True, EP: 8}, {0: 4_400_822_272}),
    (QWEN3, 16, {TP: 2, SP: True, PP: 2, EP: 4, ETP: 2}, {0: 2_200_410_112, 15: 2_200_412_160}),
    (
        LARGE,
        32,
        {TP: 4, SP: True, PP: 4, EP: 8, VPP: 2, EMBEDDING_SPLIT: True, LOSS_SPLIT: True},
        {0: 7_523_596_032, 8: 7_688_361_984, 31: 7_523_600_128},
    ),
    (
        LARGE,
        64,
        {TP: 4, SP: True, PP: 8, EP: 8, FIRST: 11, LAST: 11},
        {7: 3_679_415_040, 8: 3_844_180_992, 63: 3_679_419_136},
    ),
    (
        DEEPSEEK,
        128,
        {PP: 16, EP: 8, FIRST: 4, LAST: 1},
        {0: 4_319_412_224, 8: 6_569_132_032, 120: 2_568_969_216},
    ),
    (
        DEEPSEEK,
        128,
        {TP: 2, SP: True, PP: 16, EP: 8, FIRST: 4, LAST: 1, "mtp_num_layers": 1},
        {0: 2_895_577_088, 8: 6_137_118_720, 120: 4_046_647_296},
    ),
]


@pytest.mark.parametrize(("model", "world_size", "flags", "expected"), PARAMETERS)
def test_the_stack_builds_this_many_parameters(
    stack: RealStack,
    model_folders: dict[str, Path],
    model: str,
    world_size: int,
    flags: Flags,
    expected: dict[int, int],
) -> None:
    flags = {BATCH: world_size, **flags}
    built = {
        rank: sum(
            c["total"] for c in stack.build(model_folders[model], world_size, flags, rank=rank)
        )
        for rank in expected
    }

    assert built == expected


REFUSED: list[tuple[str, int, Flags, str, str]] = [
    (QWEN3, 12, {TP: 8}, "post-init", "is not divisible by 8"),
    (QWEN3, 6, {CP: 2, TP: 2}, "post-init", "is not divisible by 4"),
    (QWEN3, 8, {EP: 3}, "post-init", "expert_tensor_model_pipeline_parallel size (3)"),
    (QWEN3, 8, {PP: 2, EP: 8}, "post-init", "expert_tensor_model_pipeline_parallel size (16)"),
    (QWEN3, 8, {ETP: 2, EP: 8}, "post-init", "expert_tensor_model_pipeline_parallel size (16)"),
    (QWEN3, 24, {EP: 24}, "build", "instantiating TransformerLayer"),
    (QWEN3, 3, {TP: 3}, "config", "must be a multiple of tensor_model_parallel_size (3)"),
    (DEEPSEEK, 3, {TP: 3}, "config", "must be a multiple of tensor_model_parallel_size (3)"),
    (DENSE, 7, {TP: 7}, "config", "must be a multiple or divisor of tensor_model_parallel_size"),
    (DENSE, 28, {TP: 28}, "build", "is not divisible by 28"),
    (QWEN3, 5, {PP: 5}, "build", "should be divisible by"),
    (QWEN3, 4, {PP: 4, FIRST: 10}, "config", "must be divisible by"),
    (QWEN3, 1, {FIRST: 10}, "post-init", "must be greater than 1"),
    (QWEN3, 4, {PP: 4, FIRST: 12, EMBEDDING_SPLIT: True}, "config", "at the same time"),
    (QWEN3, 1, {VPP: 2}, "post-init", "greater than 1 with interleaved schedule"),
    (QWEN3, 4, {PP: 4, VPP: 5}, "build", "should be divisible by vp_size 5"),
    (QWEN3, 2, {PP: 2, LAYOUT: "Et*16|t*16|t*16L"}, "post-init", "must be divisible by"),
    (QWEN3, 2, {PP: 2, LAYOUT: "Et*24|t*23L"}, "config", "must match num_layers 48"),
    (QWEN3, 4, {BATCH: 15}, "post-init", "is not divisible by micro batch size (1)"),
    (QWEN3, 4, {BATCH: 2}, "post-init", "is not divisible by micro batch size (1)"),
    (QWEN3, 1, {GRANULARITY: "full"}, "config", 'recompute_method must be "block" or "uniform"'),
    (QWEN3, 1, {GRANULARITY: "full", METHOD: "uniform"}, "config", "recompute_num_layers must be"),
    (QWEN3, 1, {GRANULARITY: "selective", METHOD: "uniform"}, "post-init", "not yet supported"),
    (QWEN3, 1, {"recompute_modules": "foo"}, "config", "Invalid choices for recompute_modules"),
    (QWEN3, 1, {"recompute_modules": "mla_up_proj"}, "config", "mla_up_proj in recompute_modules"),
    (QWEN3, 2, {EP: 2, DISPATCHER: "allgather"}, "config", "variable sequence length"),
    (QWEN3, 2, {EP: 2, "moe_enable_deepep": True}, "config", "flex token dispatcher"),
    (QWEN3, 2, {EP: 2, DISPATCHER: "alltoall_seq"}, "parse", "invalid choice"),
    (QWEN3, 2, {TP: 2, "tp_comm_overlap": True}, "post-init", "sequence parallelism is enabled"),
    (QWEN3, 1, {"save_total_limit": 1}, "post-init", "greater than or equal to 2"),
    (QWEN3, 1, {"attention_backend": "xx"}, "post-init", "xx"),
    (QWEN3, 2, {ETP: 2, "tuner_type": "lora"}, "build", "LoRA does not support ETP"),
    (QWEN3, 1, {"train_type": "lora"}, "parse", "unknown flags"),
    (QWEN3, 1, {"tensor_model_parallel": 1}, "parse", "unknown flags"),
]


@pytest.mark.parametrize(("model", "world_size", "flags", "stage", "words"), REFUSED)
def test_the_stack_refuses(
    stack: RealStack,
    model_folders: dict[str, Path],
    model: str,
    world_size: int,
    flags: Flags,
    stage: str,
    words: str,
) -> None:
    answer = stack.train(model_folders[model], world_size, {BATCH: 24 * world_size, **flags})

    assert not answer["ok"]
    assert (answer["stage"], words in answer["error"]) == (stage, True), answer["error"]


ACCEPTED: list[tuple[str, int, Flags]] = [
    (SHORT, 8, {TP: 8, SP: True}),  # 4 KV groups on 8 ranks: a divisor is enough since 0.16
    (SHORT, 4, {PP: 4, FIRST: 15}),  # all layers on the first stage: (12 - 15) / 3 is whole
    (SHORT, 2, {TP: 2, EP: 2}),
    (SHORT, 2, {PP: 2, LAYOUT: "Et*5|t*7L"}),
    (SHORT, 1, {SP: True}),
    (SHORT, 1, {GRANULARITY: "full", METHOD: "uniform", NUM_LAYERS: 100}),
    (SHORT, 2, {"overlap_param_gather": True}),
    (SHORT, 2, {"optimizer_cpu_offload": True}),
    ("short-qwen2.5", 8, {EP: 8}),
]


@pytest.mark.parametrize(("model", "world_size", "flags"), ACCEPTED)
def test_the_stack_accepts(
    stack: RealStack,
    short_folders: dict[str, Path],
    model: str,
    world_size: int,
    flags: Flags,
) -> None:
    """Some of these are useless or wrong; what the planner makes of them is in test_legality."""
    answer = stack.train(short_folders[model], world_size, {BATCH: 24 * world_size, **flags})

    assert answer["ok"], answer["error"]


def test_a_last_stage_larger_than_what_is_left_loses_layers(
    stack: RealStack, short_folders: dict[str, Path]
) -> None:
    """3 + x + 15 layers of 12: the last stage numbers its layers from -3."""
    flags = {PP: 3, FIRST: 3, LAST: 15, BATCH: 24}
    chunks = [stack.build(short_folders[SHORT], 3, flags, rank=rank)[0] for rank in range(3)]
    built = sorted(layer for chunk in chunks for layer in chunk["layers"])

    assert built == [*range(-3, 0), *range(9)]


def test_a_sparse_layer_with_tensor_parallelism_trains_only_with_sequence_parallelism(
    stack: RealStack, short_folders: dict[str, Path]
) -> None:
    words = "MoE and tensor parallelism"
    without = stack.first_step(short_folders[SHORT], 2, {TP: 2})["moe_layer"]
    with_it = stack.first_step(short_folders[SHORT], 2, {TP: 2, SP: True})["moe_layer"]

    assert words in str(without)
    assert words not in str(with_it)


@pytest.mark.parametrize(("batch", "words"), [(2, "should range in"), (6, "remainder"), (8, None)])
def test_the_interleaved_schedule_wants_whole_groups_of_microbatches(
    stack: RealStack, short_folders: dict[str, Path], batch: int, words: str | None
) -> None:
    """A multiple of the pipeline size; refused only when the first step starts."""
    flags = {PP: 4, VPP: 3, BATCH: batch}
    refusal = stack.first_step(short_folders[SHORT], 4, flags)["schedule"]

    assert refusal is None if words is None else words in str(refusal)


def test_recomputing_norms_needs_a_megatron_core_before_0_18(
    stacks: dict[str, RealStack], short_folders: dict[str, Path]
) -> None:
    """mcore-bridge 1.6.5 reads cuda_graph_scope, which 0.18 leaves empty."""
    flags = {GRANULARITY: "selective", "recompute_modules": "layernorm"}
    refusals = ask_all(stacks, lambda stack: stack.refusal(short_folders[SHORT], 1, flags))

    assert refusals["0.16.1"] is None
    assert "modules/transformer_layer.py:179" in str(refusals["0.18.1"])


@pytest.mark.parametrize(("model", "added"), [(SHORT, 1), ("short-deepseek", 2)])
def test_the_stack_builds_prediction_layers_that_the_model_does_not_have(
    stack: RealStack, short_folders: dict[str, Path], model: str, added: int
) -> None:
    """Qwen3 has none and DeepSeek-V3 one; the rest would be trained from random weights."""
    with_mtp = stack.build(short_folders[model], 1, {"mtp_num_layers": added}, rank=0)
    without = stack.build(short_folders[model], 1, {}, rank=0)

    assert (with_mtp[0]["mtp"], without[0]["mtp"]) == (True, False)
    assert with_mtp[0]["total"] > without[0]["total"]


def test_an_unknown_model_folder_is_refused(stack: RealStack) -> None:
    with pytest.raises(StackError, match="post-init"):
        stack.build(stack.scratch / "absent", 1, {}, rank=0)
