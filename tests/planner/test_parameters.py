"""Parameters of models and ranks, against published totals and against each other."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import Case, cases

from planner.layout import Layout, PipelineSplit
from planner.model_files import BundledModel, known_models, resolve_model
from planner.model_spec import ModelSpec
from planner.parameters import active_parameters, model_parameters, rank_parameters
from planner.parts import Sharding, layer_parts, mtp_parts
from planner.workload import TunerType, Workload

BUNDLED = known_models()
FOUR = ("Qwen3-30B-A3B", "Qwen3-235B-A22B", "DeepSeek-V3", "Qwen2.5-7B")

# Statistics of ERNIE's router, which transformers counts and mcore-bridge does not build.
ROUTER_STATISTICS = {"ERNIE-4.5-21B-A3B-PT": 27 * 64}


def router_biases(model: ModelSpec) -> int:
    """Elements that transformers counts as parameters and megatron-core has as buffers."""
    if model.moe is None or not model.moe.router_expert_bias:
        return ROUTER_STATISTICS.get(model.name, 0)
    return sum(model.moe_layers) * model.moe.num_experts


def total(model: ModelSpec, mtp_num_layers: int = 0) -> int:
    return sum(model_parameters(model, mtp_num_layers=mtp_num_layers).values())


@pytest.mark.parametrize("model", BUNDLED, ids=lambda model: model.name)
def test_totals_are_those_that_building_the_models_gives(model: BundledModel) -> None:
    spec = resolve_model(model.name)
    vision = spec.vision.parameters if spec.vision else 0

    assert total(spec) - vision == model.total_parameters - router_biases(spec)


def test_totals_of_four_models() -> None:
    assert {name: total(resolve_model(name)) for name in FOUR} == {
        "Qwen3-30B-A3B": 30_532_122_624,
        "Qwen3-235B-A22B": 235_093_634_560,
        "DeepSeek-V3": 671_026_404_352,
        "Qwen2.5-7B": 7_615_616_512,
    }


@pytest.mark.parametrize("model", BUNDLED, ids=lambda model: model.name)
def test_totals_are_within_one_percent_of_the_model_cards(model: BundledModel) -> None:
    """Or the index says why not."""
    if model.published_total_billions is None:
        return
    counted = total(resolve_model(model.name)) / 1e9
    near = abs(counted / model.published_total_billions - 1) <= 0.01

    assert near == (model.published_note is None)


def test_parts_of_a_model_add_up_to_the_published_sums() -> None:
    """Qwen3-30B-A3B: 48 layers of 128 experts of 3 * 2048 * 768."""
    parts = model_parameters(resolve_model("Qwen3-30B-A3B"))

    assert parts["experts.linear_fc1"] == 48 * 128 * 2048 * 2 * 768
    assert parts["experts.linear_fc2"] == 48 * 128 * 768 * 2048
    assert parts["router"] == 48 * 128 * 2048
    assert parts["embedding"] == parts["output_layer"] == 151936 * 2048


def test_the_mtp_layer_of_deepseek_v3_is_as_large_as_its_weights_say() -> None:
    """README_WEIGHTS.md of deepseek-ai/DeepSeek-V3: 11.5 B in the layer, beside its projection."""
    model = resolve_model("DeepSeek-V3")
    module = total(model, 1) - total(model)
    projection = 2 * model.hidden_size * model.hidden_size

    assert round((module - projection) / 1e9, 1) == 11.5


def test_ranks_of_known_layouts() -> None:
    def stages(tp: int, pp: int) -> list[int]:
        split = PipelineSplit(tuple(((48 * s // pp, 48 * (s + 1) // pp),) for s in range(pp)))
        layout = Layout(world_size=16, tp=tp, pp=pp, ep=8, split=split)
        return [
            rank_parameters(resolve_model("Qwen3-30B-A3B"), layout, Workload(), stage).total
            for stage in range(pp)
        ]

    assert stages(1, 2) == [2_582_484_992, 2_582_487_040]
    assert stages(2, 1) == [4_400_822_272]


def replicated(model: ModelSpec, mtp_num_layers: int) -> int:
    """Parameters that every rank of a TP group holds whole, the vision tower apart."""
    parts = [part for kind in model.layer_kinds for part in layer_parts(model, kind)]
    parts += mtp_parts(model) * mtp_num_layers
    whole = sum(part.elements for part in parts if part.sharding is Sharding.REPLICATED)
    return whole + model.hidden_size  # of the last norm


def padded(model: ModelSpec, tp: int) -> ModelSpec:
    return replace(model, vocab_size=-(-model.vocab_size // tp) * tp)


@given(cases(), st.booleans())
def test_unique_shards_of_all_ranks_are_the_model(case: Case, tied: bool) -> None:
    """TP shards once per TP rank, what is replicated once, experts once per EP and ETP rank."""
    layout = case.layout
    model = replace(padded(case.problem.model, layout.tp), tie_word_embeddings=tied)
    workload = replace(case.problem.workload, tuner_type=TunerType.FULL)
    mtp, vision = workload.mtp_num_layers, model.vision.parameters if model.vision else 0
    held = [rank_parameters(model, layout, workload, stage) for stage in range(layout.pp)]
    dense = sum(stage.dense for stage in held) * layout.tp
    dense -= (layout.tp - 1) * (replicated(model, mtp) + vision)
    experts = sum(stage.expert for stage in held) * layout.ep * layout.etp
    copies = 0
    if layout.pp > 1:  # the last stage has a copy for MTP, and one as the tied output layer
        copies = model.vocab_size * model.hidden_size * (bool(mtp) + model.tie_word_embeddings)

    assert dense + experts == total(model, mtp) + copies
    assert sum(stage.total - stage.trainable for stage in held) == vision


@given(cases())
def test_the_vocabulary_is_padded_to_a_multiple_of_tp(case: Case) -> None:
    model, layout, workload = case.problem.model, case.layout, case.problem.workload
    odd = replace(model, vocab_size=model.vocab_size - 1)
    for stage in range(layout.pp):
        assert rank_parameters(odd, layout, workload, stage) == rank_parameters(
            padded(odd, layout.tp), layout, workload, stage
        )


def test_active_parameters_of_three_models() -> None:
    counted = {name: active_parameters(resolve_model(name)) / 1e9 for name in FOUR[:3]}

    assert {name: round(billions, 2) for name, billions in counted.items()} == {
        "Qwen3-30B-A3B": 3.35,
        "Qwen3-235B-A22B": 22.19,
        "DeepSeek-V3": 37.55,
    }


@given(cases())
def test_a_split_moves_layers_and_loses_none(case: Case) -> None:
    """Every split of a grid has the same sum over its stages."""
    model, layout, workload = case.problem.model, case.layout, case.problem.workload
    chunks = layout.pp * layout.vpp
    bounds = [model.num_layers * chunk // chunks for chunk in range(chunks + 1)]
    even = PipelineSplit(
        tuple(
            tuple((bounds[c], bounds[c + 1]) for c in range(stage, chunks, layout.pp))
            for stage in range(layout.pp)
        )
    )

    def summed(split: PipelineSplit) -> int:
        changed = replace(layout, split=split)
        stages = range(layout.pp)
        return sum(rank_parameters(model, changed, workload, stage).total for stage in stages)

    assert summed(even) == summed(layout.split)


ONE_GPU = {
    name: Layout(world_size=1, split=PipelineSplit((((0, resolve_model(name).num_layers),),)))
    for name in FOUR
}

# rank 8 on all linear layers, A and B of each: rank * (in + out), q, k and v together
LORA = {
    "Qwen2.5-7B": 28 * 8 * ((3584 + 4608) + (3584 + 3584) + (3584 + 2 * 18944) + (18944 + 3584)),
    "Qwen3-30B-A3B": 48
    * 8
    * ((2048 + 5120) + (4096 + 2048) + 128 * ((2048 + 2 * 768) + (768 + 2048))),
}


@pytest.mark.parametrize("name", LORA)
def test_adapters_of_a_whole_model(name: str) -> None:
    model = resolve_model(name)
    workload = Workload(tuner_type=TunerType.LORA, lora_rank=8)
    held = rank_parameters(model, ONE_GPU[name], workload, 0)

    assert held.trainable == LORA[name]
    assert held.total == total(model) + LORA[name]


def test_adapters_of_known_models_in_millions() -> None:
    assert LORA == {"Qwen2.5-7B": 17_776_640, "Qwen3-30B-A3B": 319_684_608}


@given(cases(), st.integers(1, 128))
def test_adapters_grow_with_their_rank_and_leave_the_model_as_it_is(case: Case, rank: int) -> None:
    model, layout, workload = case.problem.model, case.layout, case.problem.workload

    for stage in range(layout.pp):
        full = rank_parameters(model, layout, replace(workload, tuner_type=TunerType.FULL), stage)
        one, many = (
            rank_parameters(
                model,
                layout,
                replace(workload, tuner_type=TunerType.LORA, lora_rank=each),
                stage,
            )
            for each in (8, 8 * rank)
        )

        assert many.trainable == rank * one.trainable
        assert many.total - many.trainable == full.total
        assert many.expert - many.trainable_expert == full.expert
