"""Parameters of models and ranks, against published totals and against each other."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import MODELS, Case, cases

from planner.layout import Layout, PipelineSplit
from planner.model_files import BundledModel, known_models, resolve_model
from planner.model_spec import ModelSpec, MultiLatentAttention
from planner.parameters import active_parameters, model_parameters, rank_parameters
from planner.workload import TunerType, Workload

BUNDLED = known_models()

# Of DeepSeek-V3 the published count has the 256 router biases of 58 layers, which are buffers.
BUFFERS = {"DeepSeek-V3": 58 * 256}


def total(model: ModelSpec, mtp_num_layers: int = 0) -> int:
    return sum(model_parameters(model, mtp_num_layers=mtp_num_layers).values())


@pytest.mark.parametrize("model", BUNDLED, ids=lambda model: model.name)
def test_totals_are_those_that_building_the_models_gives(model: BundledModel) -> None:
    counted = total(resolve_model(model.name))

    assert counted == model.total_parameters - BUFFERS.get(model.name, 0)


def test_totals_of_the_four_models() -> None:
    assert {name: total(resolve_model(name)) for name in MODELS} == {
        "Qwen3-30B-A3B": 30_532_122_624,
        "Qwen3-235B-A22B": 235_093_634_560,
        "DeepSeek-V3": 671_026_404_352,
        "Qwen2.5-7B": 7_615_616_512,
    }


@pytest.mark.parametrize("model", BUNDLED, ids=lambda model: model.name)
def test_totals_are_what_the_model_cards_say(model: BundledModel) -> None:
    """Total and active parameters, cut off after the digits that are published."""
    spec = resolve_model(model.name)
    for counted, published in (
        (total(spec), model.published_total_billions),
        (active_parameters(spec), model.published_active_billions),
    ):
        digits = f"{published:g}"
        decimals = len(digits.partition(".")[2])

        assert counted * 10**decimals // 10**9 == round(published * 10**decimals)


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
    """Parameters that every rank of a TP group holds whole: norms, the router, MLA's down
    projections."""
    hidden, attention = model.hidden_size, model.attention
    layer = 2 * hidden
    if isinstance(attention, MultiLatentAttention):
        latent = attention.kv_lora_rank + attention.qk_rope_head_dim
        layer += (attention.q_lora_rank or 0) * (hidden + 1)
        layer += hidden * latent + attention.kv_lora_rank
    else:
        layer += 2 * attention.head_dim if attention.qk_layernorm else 0
    router = model.moe.num_experts * hidden if model.moe else 0
    mtp = layer + router * model.moe_layers[-1] + 3 * hidden
    layers = model.num_layers * layer + sum(model.moe_layers) * router
    return layers + hidden + mtp_num_layers * mtp


@given(cases(), st.booleans())
def test_unique_shards_of_all_ranks_are_the_model(case: Case, tied: bool) -> None:
    """TP shards once per TP rank, what is replicated once, experts once per EP and ETP rank."""
    model, layout = replace(case.problem.model, tie_word_embeddings=tied), case.layout
    workload = replace(case.problem.workload, tuner_type=TunerType.FULL)
    mtp = workload.mtp_num_layers
    held = [rank_parameters(model, layout, workload, stage) for stage in range(layout.pp)]
    dense = sum(stage.dense for stage in held) * layout.tp
    dense -= (layout.tp - 1) * replicated(model, mtp)
    experts = sum(stage.expert for stage in held) * layout.ep * layout.etp
    copies = 0
    if layout.pp > 1:  # the last stage has a copy for MTP, and one as the tied output layer
        copies = model.vocab_size * model.hidden_size * (bool(mtp) + model.tie_word_embeddings)

    assert dense + experts == total(model, mtp) + copies
    assert all(stage.trainable == stage.total for stage in held)


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
    for name in MODELS
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
