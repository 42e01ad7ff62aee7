"""The rules: what they refuse, what they say, and that what they propose works."""

import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_edges import (
    LAYOUT_EDGES,
    LORA,
    NEW,
    NEWEST,
    NINE_EXPERTS,
    OLD,
    QWEN3,
    block,
    selective,
    sizes,
)
from problems import MODELS, Case, cases, problem, splits
from setting_edges import SETTING_EDGES, Edge

from planner.checks import Values
from planner.constraints import LEVELS, RULES, rules_for, violations
from planner.evaluate import Evaluator
from planner.layout import Recompute
from planner.messages import MESSAGES
from planner.problem import Problem, Sizes, as_layout
from planner.workload import Placement, TunerType

BY_ID = {rule.id: rule for rule in RULES}


EDGES = {**LAYOUT_EDGES, **SETTING_EDGES}


def broken(edge: Edge) -> list[str]:
    return [violation.rule.id for violation in violations(*edge)]


@pytest.mark.parametrize("rule_id", BY_ID)
def test_a_rule_refuses_what_breaks_it_and_nothing_beside_it(rule_id: str) -> None:
    illegal, legal = EDGES[rule_id]

    assert broken(illegal) == [rule_id]
    assert broken(legal) == []


@pytest.mark.parametrize("rule_id", BY_ID)
def test_a_rule_says_what_is_wrong_and_what_would_work(rule_id: str) -> None:
    """The sentence and its fix take all their values from the violation."""
    (violation,) = violations(*EDGES[rule_id][0])
    message = MESSAGES[violation.message_id]
    fields = {
        name
        for template in (message.text, message.fix)
        for _, name, _, _ in string.Formatter().parse(template)
        if name
    }

    assert fields == set(violation.values)
    assert message.fix


def test_the_sentence_of_a_rule_shows_the_equation() -> None:
    (violation,) = violations(QWEN3, sizes(tp=8, cp=4, ep=2))
    message = MESSAGES[violation.message_id]

    assert message.text.format_map(violation.values) == (
        "world size 16 is not a multiple of tp*cp*pp = 8*4*1 = 32"
    )
    assert message.fix.format_map(violation.values) == "make tp*cp*pp 16, or use 32 GPUs"


@pytest.mark.parametrize(
    ("stated", "chosen", "nearest"),
    [
        (QWEN3, sizes(tp=4), sizes(tp=4, ep=2)),
        (QWEN3, sizes(tp=2, etp=4), sizes(tp=2, ep=2, etp=4)),
        (LORA, sizes(tp=2), sizes(tp=2, ep=2)),
        (QWEN3, sizes(tp=4, etp=8), sizes(tp=4, etp=4)),  # ep 2 would leave NVLink
        (NINE_EXPERTS, sizes(tp=2), sizes(tp=2, etp=2)),
        (replace(NINE_EXPERTS, workload=LORA.workload), sizes(tp=2), sizes()),
    ],
)
def test_experts_without_ep_get_ep_or_the_etp_of_tp_or_neither(
    stated: Problem, chosen: Sizes, nearest: Sizes
) -> None:
    """What their rule proposes breaks no rule."""
    (violation,) = violations(stated, chosen)

    assert violation.rule.id == "experts_without_ep"
    assert with_nearest(chosen, violation.values) == nearest
    assert broken((stated, nearest)) == []


def test_experts_that_are_not_trained_need_no_ep() -> None:
    """LoRA on attention alone."""
    attention = problem(tuner_type=TunerType.LORA, target_modules=("linear_qkv", "linear_proj"))

    assert broken((attention, sizes(tp=2))) == []
    assert broken((LORA, sizes(tp=2))) == ["experts_without_ep"]


def test_sentences_of_rules_have_rules() -> None:
    """No sentence is left of a rule that is gone."""
    assert {key for key in MESSAGES if key.startswith("rule.")} == {f"rule.{id_}" for id_ in BY_ID}


# What the fix of a rule proposes, done.
FIXED: dict[str, Any] = {
    "world_dense": lambda p, s, v: (p, replace(s, world_size=v["nearest_world"])),
    "world_expert": lambda p, s, v: (p, replace(s, world_size=v["nearest_world"])),
    "heads_tp": lambda p, s, v: (p, replace(s, tp=v["nearest"])),
    "query_groups_tp": lambda p, s, v: (p, replace(s, tp=v["nearest"])),
    "query_groups_tp_strict": lambda p, s, v: (p, replace(s, tp=v["nearest"])),
    "ffn_tp": lambda p, s, v: (p, replace(s, tp=v["nearest"])),
    "dense_model": lambda p, s, v: (p, replace(s, ep=1, etp=1)),
    "lora_etp": lambda p, s, v: (p, replace(s, etp=1)),
    "bias_etp": lambda p, s, v: (p, replace(s, etp=1)),
    "experts_ep": lambda p, s, v: (p, replace(s, ep=v["nearest"])),
    "expert_ffn_etp": lambda p, s, v: (p, replace(s, etp=v["nearest"])),
    "experts_without_ep": lambda p, s, v: (p, with_nearest(s, v)),
    "sequence_shards": lambda p, s, v: (with_workload(p, seq_length=v["nearest"]), s),
    "tp_nvlink": lambda p, s, v: (p, replace(s, tp=v["nearest"])),
    "ep_nvlink": lambda p, s, v: (p, replace(s, ep=v["nearest"], etp=1)),
    "mtp_available": lambda p, s, v: (with_workload(p, mtp_num_layers=v["available"]), s),
    "dispatcher": lambda p, s, v: (p, replace(s, dispatcher=v["known"].split(", ")[0])),
    "layers": lambda p, s, v: (p, replace(s, pp=v["layers"], vpp=1)),
    "split_sum": lambda p, s, v: (p, replace(s, split=None)),
    "vpp_pp": lambda p, s, v: (p, replace(s, vpp=1)),
    "batch": lambda p, s, v: (with_workload(p, global_batch_size=v["nearest"]), s),
    "vpp_microbatches": lambda p, s, v: (with_workload(p, global_batch_size=v["nearest"]), s),
    "recompute_modules": lambda p, s, v: (
        p,
        replace(s, recompute=selective(*v["known"].split(", "))),
    ),
    "recompute_layernorm": lambda p, s, v: (p, without_module(s, "layernorm")),
    "recompute_mla": lambda p, s, v: (p, without_module(s, "mla_up_proj")),
    "recompute_num_layers": lambda p, s, v: (p, replace(s, recompute=block(v["nearest"]))),
}


def with_workload(of: Problem, **changes: Any) -> Problem:
    return replace(of, workload=replace(of.workload, **changes))


def with_nearest(of: Sizes, values: Values) -> Sizes:
    return replace(of, **{name: values[f"nearest_{name}"] for name in ("tp", "ep", "etp")})


def without_module(of: Sizes, module: str) -> Sizes:
    return replace(of, recompute=selective(*set(of.recompute.modules) - {module}))


small = st.integers(1, 12)
any_recompute = st.sampled_from(
    [
        Recompute(),
        block(1),
        block(7),
        block(100),
        block(0),
        selective("moe", "layernorm"),
        selective("mla_up_proj", "mlp"),
        selective("attention"),
    ]
)


@st.composite
def candidates(draw: st.DrawFn) -> Edge:
    """Any sizes, most of them illegal, for any bundled model."""
    gpus = draw(st.sampled_from([1, 2, 4, 6, 8, 16, 24, 64]))
    stated = problem(
        draw(st.sampled_from(MODELS)),
        gpus=gpus,
        stack=draw(st.sampled_from(["ms-swift-4.6", "ms-swift-3.12", "gpu-kit-2026-11"])),
        seq_length=draw(st.sampled_from([100, 4096, 8192])),
        global_batch_size=draw(st.sampled_from([1, 6, 16, 48, 64])),
        tuner_type=draw(st.sampled_from(TunerType)),
        mtp_num_layers=draw(st.integers(0, 2)),
        placement=draw(st.sampled_from(Placement)),
    )
    pp, vpp = draw(st.sampled_from([1, 2, 3, 4, 16])), draw(st.integers(1, 5))
    split = None
    if pp * vpp <= stated.model.num_layers:
        num_layers = stated.model.num_layers + draw(st.sampled_from([0, 0, 0, -1, 2]))
        split = draw(st.none() | splits(max(num_layers, pp * vpp), pp, vpp))
    chosen = sizes(
        gpus,
        tp=draw(small),
        cp=draw(small),
        pp=pp,
        ep=draw(small),
        etp=draw(small),
        vpp=vpp,
        micro_batch_size=draw(st.integers(1, 4)),
        recompute=draw(any_recompute),
        split=split,
        dispatcher=draw(st.sampled_from(["alltoall", "flex", "allgather"])),
    )
    return stated, chosen


@given(candidates())
def test_the_nearest_thing_that_works_does(candidate: Edge) -> None:
    """Doing what the fix of a broken rule says keeps that rule."""
    stated, chosen = candidate
    for violation in violations(stated, chosen):
        fixed = FIXED[violation.rule.id](stated, chosen, violation.values)

        assert violation.rule.check(*fixed) is None, violation


@given(candidates())
def test_sentences_of_rules_are_one_line_with_every_value_filled_in(candidate: Edge) -> None:
    for violation in violations(*candidate):
        message = MESSAGES[violation.message_id]
        for text in (message.text, message.fix):
            said = text.format_map(violation.values)

            assert said and not set("{}\n") & set(said) and not said.endswith(".")


def deeper(chosen: Sizes, other: Sizes, level: str) -> Sizes:
    """`chosen` with what the level does not read taken from `other`."""
    read = {
        "grid": ("world_size", "tp", "cp", "pp", "ep", "etp", "dispatcher"),
        "pipeline": ("pp", "vpp", "split"),
        "batch": ("world_size", "tp", "cp", "pp", "vpp", "micro_batch_size"),
        "recompute": ("recompute", "split"),
    }[level]
    return replace(other, **{name: getattr(chosen, name) for name in read})


@given(candidates(), candidates())
def test_a_rule_reads_no_more_than_its_level_says(candidate: Edge, other: Edge) -> None:
    """So that a search may refuse a whole subtree at once."""
    stated, chosen = candidate
    for level in LEVELS:
        for rule in rules_for(stated, level):
            changed = deeper(chosen, other[1], level)

            assert rule.check(stated, changed) == rule.check(stated, chosen), rule.id


EVALUABLE = [rule.id for rule in RULES if rule.evaluable]


@pytest.mark.parametrize("rule_id", EVALUABLE)
def test_a_layout_that_breaks_an_evaluable_rule_has_memory_and_time(rule_id: str) -> None:
    stated, chosen = EDGES[rule_id][0]
    evaluator = Evaluator(stated)
    if chosen.split is None:
        chosen = replace(chosen, split=evaluator.split(chosen.pp, chosen.vpp))
    layout = as_layout(stated, chosen)
    batch = evaluator.batch(layout)

    assert broken((stated, chosen)) == [rule_id]
    assert all(stage.peak_allocated > 0 for stage in batch.memory(layout.recompute))
    assert batch.step_time(layout.recompute).total > 0


@given(cases())
def test_layouts_of_other_tests_are_legal(case: Case) -> None:
    layout = case.layout
    chosen = Sizes(
        world_size=layout.world_size,
        tp=layout.tp,
        cp=layout.cp,
        pp=layout.pp,
        ep=layout.ep,
        etp=layout.etp,
        vpp=layout.vpp,
        micro_batch_size=layout.micro_batch_size,
        recompute=layout.recompute,
        split=layout.split,
    )

    assert broken((case.problem, chosen)) == []
    assert as_layout(case.problem, chosen) == layout
    dense = layout.tp * layout.cp * layout.dp * layout.pp
    assert dense == layout.etp * layout.ep * layout.edp * layout.pp == layout.world_size


def test_rules_hold_for_releases() -> None:
    """KV groups against TP changed in megatron-core 0.16, experts without EP in 0.19."""

    def ids(stated: Problem) -> set[str]:
        return {rule.id for rule in rules_for(stated)}

    assert {"query_groups_tp_strict"} == ids(OLD) - ids(QWEN3)
    assert {"query_groups_tp"} == ids(QWEN3) - ids(OLD)
    assert {"recompute_layernorm"} == ids(NEW) - ids(QWEN3)
    assert {"experts_without_ep"} == ids(NEW) - ids(NEWEST)


def test_every_rule_has_a_source_and_a_level() -> None:
    assert len(BY_ID) == len(RULES)
    assert all(rule.source and rule.level in LEVELS for rule in RULES)
    assert {rule.kind for rule in RULES} == {"illegal", "placement", "engine"}
