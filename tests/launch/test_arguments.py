"""The canonical arguments of a layout."""

from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import golden_cases, make_run

from planner.layout import PipelineSplit, Recompute
from planner.recipe import load_recipe
from planner.swift_args import FLAG_ORDER, NOTES, layout_string, pipeline_args, sections
from planner.workload import TunerType

SHARED = Recompute(granularity="selective", modules=("shared_experts",))


def args_of(*args: Any, **options: Any) -> dict[str, Any]:
    """Return the arguments of a plan for these options of `make_run`."""
    return make_run(*args, **options).plan.args


def split_of(sizes: list[list[int]]) -> PipelineSplit:
    """Return the split with `sizes[virtual_stage][stage]` layers."""
    ends = list(accumulate(size for virtual in sizes for size in virtual))
    ranges = list(zip([0, *ends], ends, strict=False))
    stages = len(sizes[0])
    return PipelineSplit(tuple(tuple(ranges[stage::stages]) for stage in range(stages)))


def built_by_megatron(args: dict[str, Any], num_layers: int) -> list[list[int]]:
    """Return the layers of each chunk, as megatron-core 0.16.1 derives them from the arguments.

    transformer/transformer_block.py:84-190; the string by counting its letters.
    """
    stages = args["pipeline_model_parallel_size"]
    virtual = args.get("virtual_pipeline_model_parallel_size", 1)
    if string := args.get("pipeline_model_parallel_layout"):
        chunks = [_decoder_layers(chunk) for chunk in string.split("|")]
        return [chunks[at : at + stages] for at in range(0, len(chunks), stages)]
    first = args.get("decoder_first_pipeline_num_layers")
    last = args.get("decoder_last_pipeline_num_layers")
    left = num_layers - (first or 0) - (last or 0)
    others = stages - (first is not None) - (last is not None)
    assert others == 0 or left % others == 0
    sizes = [left // others if others else 0] * stages
    sizes[0] = sizes[0] if first is None else first
    sizes[-1] = sizes[-1] if last is None else last
    assert all(size % virtual == 0 for size in sizes)
    return [[size // virtual for size in sizes]] * virtual


def _decoder_layers(chunk: str) -> int:
    body = chunk.strip("EmL")
    return int(body.removeprefix("t*")) if "*" in body else len(body)


SIZES = st.integers(1, 6).flatmap(
    lambda stages: st.lists(
        st.lists(st.integers(0, 9), min_size=stages, max_size=stages),
        min_size=1,
        max_size=1 if stages == 1 else 4,
    )
)
EVEN_IN_THE_MIDDLE = st.tuples(
    st.integers(1, 9), st.integers(0, 5), st.integers(1, 9), st.integers(1, 9)
).map(lambda values: [[values[0], *[values[2]] * values[1], values[3]]])


@given(SIZES | EVEN_IN_THE_MIDDLE)
def test_megatron_builds_exactly_the_split(sizes: list[list[int]]) -> None:
    num_layers = sum(map(sum, sizes))
    if num_layers:
        assert built_by_megatron(pipeline_args(split_of(sizes)), num_layers) == sizes


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([[48]], {}),
        ([[24, 24]], {}),
        ([[6, 6], [6, 6]], {"virtual_pipeline_model_parallel_size": 2}),
        ([[23, 25]], {"decoder_first_pipeline_num_layers": 23}),
        ([[12, 12, 11]], {"decoder_last_pipeline_num_layers": 11}),
        (
            [[11, 13, 13, 11]],
            {"decoder_first_pipeline_num_layers": 11, "decoder_last_pipeline_num_layers": 11},
        ),
        ([[11, 12, 13, 12]], {"pipeline_model_parallel_layout": "Et*11|t*12|t*13|t*12L"}),
        ([[3, 2], [2, 1]], {"pipeline_model_parallel_layout": "Et*3|t*2|t*2|tL"}),
        ([[0, 4, 4]], {"pipeline_model_parallel_layout": "E|t*4|t*4L"}),
    ],
)
def test_the_plainest_way_to_say_a_split_is_taken(
    sizes: list[list[int]], expected: dict[str, Any]
) -> None:
    args = pipeline_args(split_of(sizes))
    assert args == {"pipeline_model_parallel_size": len(sizes[0]), **expected}


def test_mtp_layers_stand_before_the_loss() -> None:
    assert layout_string(split_of([[3, 2]]), mtp_num_layers=2) == "Et*3|t*2mmL"


def test_every_flag_has_a_place_and_a_heading_once() -> None:
    for case in golden_cases():
        args = case.run.plan.args
        places = [FLAG_ORDER[flag] for flag in args if flag in FLAG_ORDER]
        assert places == sorted(set(places)), case.name
        under_headings = [flag for flags in sections(args).values() for flag in flags]
        assert under_headings == list(args), case.name


def test_every_note_is_of_a_flag() -> None:
    recipe = load_recipe(TunerType.LORA)
    assert set(NOTES) | set(recipe.reasons) <= set(FLAG_ORDER)


def test_a_dense_model_has_no_flags_of_experts() -> None:
    flags = args_of("Qwen2.5-7B", tp=4)
    assert not [flag for flag in flags if flag.startswith(("moe_", "expert_"))]


def test_expert_sizes_are_explicit_even_where_they_are_one() -> None:
    args = args_of(tp=2, ep=8)
    assert (args["expert_model_parallel_size"], args["expert_tensor_parallel_size"]) == (8, 1)


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("Qwen3-30B-A3B", {}, None),
        ("DeepSeek-V3", {}, True),
        ("DeepSeek-V3", {"recompute": SHARED}, False),
        ("DeepSeek-V3", {"dispatcher": "flex"}, False),
    ],
)
def test_shared_experts_overlap_only_where_there_are_some_and_it_is_legal(
    model: str, options: dict[str, Any], expected: bool | None
) -> None:
    args = args_of(model, ep=16, **options)
    assert args.get("moe_shared_expert_overlap") is expected


def test_only_lora_has_its_flags_and_learns_faster() -> None:
    full, lora = args_of(ep=8), args_of(ep=8, tuner_type=TunerType.LORA)
    only_lora = {"lora_rank", "lora_alpha", "target_modules", "merge_lora"}
    assert set(lora) - set(full) == only_lora
    assert (full["lr"], full["min_lr"]) == (1e-5, 1e-6)
    assert (lora["lr"], lora["min_lr"]) == (1e-4, 1e-5)


def test_iterations_replace_epochs() -> None:
    """ms-swift lets epochs win over iterations, so both must not stand there."""
    assert "train_iters" not in args_of(ep=8)
    args = args_of(ep=8, train_iters=6)
    assert args["train_iters"] == 6
    assert "num_train_epochs" not in args


def test_the_recipe_of_the_project() -> None:
    """Learning rate, warm-up, epochs, auxiliary loss, fusions, packing and saving, as promised."""
    args = args_of("DeepSeek-V3", ep=16)
    promised = {
        "lr": 1e-5,
        "min_lr": 1e-6,
        "lr_warmup_fraction": 0.05,
        "num_train_epochs": 3,
        "moe_aux_loss_coeff": 1e-3,
        "moe_permute_fusion": True,
        "moe_grouped_gemm": True,
        "moe_shared_expert_overlap": True,
        "packing": True,
        "save_steps": 200,
    }
    assert promised.items() <= args.items()


def test_ms_swift_defaults_that_hurt_are_never_left() -> None:
    """A hang of 208 days, another output folder at every start, a question to a model hub."""
    for case in golden_cases():
        args = case.run.plan.args
        assert 1800 <= args["ddp_timeout"] <= 7200
        assert args["add_version"] is False
        assert args["check_model"] is False
