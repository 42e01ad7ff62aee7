"""What settings do to the split, to memory and time, to the arguments; nothing is lost."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import Case, cases, problem
from setting_edges import AWARE, EMBEDDING, FIRST, LAST, LAYOUT, LOSS, OFFLOAD

from planner.constraints import rules_for
from planner.errors import UsageError
from planner.evaluate import Evaluator
from planner.layout import Layout, PipelineSplit, Recompute
from planner.memory import StageMemory
from planner.named_split import named_split
from planner.no_fit import nothing_found
from planner.planning import make_plan
from planner.problem import Sizes
from planner.search import search
from planner.setting_conflicts import check_settings
from planner.setting_rules import SETTING_RULES
from planner.setting_table import SETTABLE, setting_table
from planner.settings import SPLIT_FLAGS, read_settings
from planner.workload import TunerType

FULL = Recompute(granularity="full", method="uniform", num_layers=1)


@st.composite
def split_settings(draw: st.DrawFn) -> tuple[str, ...]:
    """Settings of the split, most of them none for most pipelines."""
    chosen = [f"{flag}={draw(st.integers(1, 60))}" for flag in (FIRST, LAST) if draw(st.booleans())]
    chosen += [flag for flag in (EMBEDDING, LOSS) if draw(st.booleans())]
    sizes = draw(st.lists(st.sampled_from([0, 1, 6, 12, 23, 24, 25, 48]), min_size=1, max_size=8))
    text = "E" + "|".join("t" * size for size in sizes) + "L"
    if draw(st.booleans()):
        text = draw(st.sampled_from([text, text.replace("E", ""), text + "|", "|" + text]))
        chosen.append(f"{LAYOUT}={text}")
    return tuple(chosen)


@given(split_settings(), st.integers(1, 8), st.integers(1, 4))
def test_a_split_is_named_where_no_rule_says_why_not(
    given_: tuple[str, ...], pp: int, vpp: int
) -> None:
    stated = problem(gpus=pp, settings=given_)
    if not stated.settings.names_split:
        return
    split = named_split(stated.settings, 48, pp, vpp)
    sizes = Sizes(world_size=pp, pp=pp, vpp=vpp, split=split)
    broken = {
        rule.id
        for rule in rules_for(stated, "pipeline")
        if not rule.evaluable and rule.check(stated, sizes) is not None
    } - {"vpp_pp"}

    if not broken:
        assert split is not None
        assert (split.num_stages, split.num_virtual_stages) == (pp, vpp)
        assert sum(split.num_layers(stage) for stage in range(pp)) == 48


def memory_of(*settings: str, **options: Any) -> list[StageMemory]:
    """Memory of one layout of Qwen3-30B-A3B on 16 GPUs: two stages, experts on 8."""
    return batch_of(*settings, **options).memory(FULL)


def batch_of(*settings: str, **options: Any) -> Any:
    stated = problem(settings=settings, **options)
    layout = Layout(
        world_size=16,
        pp=2,
        ep=8,
        recompute=FULL,
        split=Evaluator(stated).split(2, 1) or pytest.fail("no split"),
    )
    return Evaluator(stated).batch(layout)


def terms_of(*settings: str, **options: Any) -> dict[str, int]:
    return memory_of(*settings, **options)[0].terms


PLAIN = terms_of()


@pytest.mark.parametrize(
    ("settings", "term", "factor"),
    [
        ((AWARE, "main_grads_dtype=bf16"), "gradients", 1 / 2),
        ((AWARE,), "gradients", 1),
        ((AWARE,), "master_weights", 1 / 2),
        ((AWARE, "main_params_dtype=fp16"), "master_weights", 1 / 2),
        ((AWARE, "fp8_format=hybrid", "fp8_recipe=blockwise"), "master_weights", 1),
        ((AWARE, "exp_avg_dtype=bf16", "exp_avg_sq_dtype=bf16"), "optimizer_moments", 1 / 2),
        ((AWARE, "exp_avg_dtype=fp8"), "optimizer_moments", 5 / 8),
        (("optimizer=sgd", "use_distributed_optimizer=false"), "gradients", 1),
        ((OFFLOAD,), "master_weights", 1),
        ((OFFLOAD, "optimizer_offload_fraction=0.25"), "optimizer_moments", 3 / 4),
        (("fp8_format=hybrid", "fp8_param_gather=true"), "weights", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_states_take_the_bytes_of_their_types(
    settings: tuple[str, ...], term: str, factor: float
) -> None:
    assert terms_of(*settings)[term] == pytest.approx(PLAIN[term] * factor, rel=1e-6)


def test_states_that_are_offloaded_leave_the_gpu_for_the_host() -> None:
    away, aware = terms_of(OFFLOAD), terms_of(OFFLOAD, AWARE)
    assert "optimizer_moments" not in away and "master_weights" in away
    assert not {"optimizer_moments", "master_weights"} & aware.keys()

    def host(*settings: str) -> dict[str, int]:
        stated = problem(settings=settings)
        evaluator = Evaluator(stated)
        split = evaluator.split(2, 1)
        assert split is not None
        layout = Layout(world_size=16, pp=2, ep=8, recompute=FULL, split=split)
        plan = make_plan(evaluator, layout)
        return {**plan.host_memory_bytes, "optimizer": plan.step_seconds["optimizer"]}

    plain, half, whole = host(), host(OFFLOAD, "optimizer_offload_fraction=0.5"), host(OFFLOAD)
    for name in ("training", "saving", "optimizer"):
        assert plain[name] < half[name] < whole[name]
    assert plain["loading"] == whole["loading"]


def test_without_the_distributed_optimizer_every_rank_has_all_states() -> None:
    replicated = terms_of("use_distributed_optimizer=false")
    assert replicated["master_weights"] == PLAIN["gradients"]
    assert replicated["optimizer_moments"] == 2 * PLAIN["gradients"]


def test_narrow_states_are_widened_while_the_optimizer_steps() -> None:
    """And the search sees it where that is the fullest moment."""
    narrow = ("exp_avg_dtype=fp8", "exp_avg_sq_dtype=fp8", "main_params_dtype=fp16")
    batch = batch_of(AWARE, *narrow, seq_length=128, global_batch_size=8)
    fullest = max(batch.memory(FULL), key=lambda stage: stage.device_used)
    assert fullest.peak_moment == "optimizer_step"
    assert "widened_states" in fullest.terms
    assert batch.device_used(FULL) == pytest.approx(fullest.device_used, rel=1e-9)


def test_fp8_keeps_smaller_inputs_and_copies_of_weights() -> None:
    none = Recompute()
    plain, fp8 = (batch_of(*each).memory(none)[0] for each in ((), ("fp8_format=hybrid",)))
    assert fp8.terms["saved_activations"] < plain.terms["saved_activations"]
    linear = fp8.terms["fp8_weight_copies"]
    assert 0.8 * plain.terms["weights"] < linear < plain.terms["weights"]  # not the embedding
    kept = batch_of("fp8_format=hybrid", "fp8_param_gather=true").memory(none)[0]
    assert "fp8_weight_copies" not in kept.terms


def test_experts_of_a_capacity_get_no_more_rows() -> None:
    def used(*settings: str, imbalance: float = 1.0) -> int:
        return memory_of(*settings, routing_imbalance=imbalance)[0].device_used

    capped = "moe_expert_capacity_factor=1.5"
    padded = (capped, "moe_pad_expert_input_to_capacity=true")
    assert used(imbalance=4) > used(capped, imbalance=4) == used(imbalance=1.5)
    assert used(capped) == used()
    assert used(*padded) == used(*padded, imbalance=4) == used(imbalance=1.5)


def test_larger_groups_of_microbatches_keep_more_of_them_in_flight() -> None:
    def used(group: int) -> int:
        stated = problem(
            settings=(f"microbatch_group_size_per_vp_stage={group}",), global_batch_size=128
        )
        evaluator = Evaluator(stated)
        split = evaluator.split(2, 4)
        assert split is not None
        layout = Layout(world_size=16, pp=2, vpp=4, ep=8, split=split, global_batch_size=128)
        return max(stage.peak_allocated for stage in evaluator.batch(layout).memory(Recompute()))

    assert used(2) < used(4) < used(8)


def test_a_layout_with_stages_of_their_own_for_embedding_and_loss_is_evaluated() -> None:
    stated = problem(gpus=32, settings=(f"{LAYOUT}=E|t*24|t*24|L",))
    evaluator = Evaluator(stated)
    split = evaluator.split(4, 1)
    assert split is not None
    layout = Layout(world_size=32, pp=4, ep=8, recompute=FULL, split=split)
    plan = make_plan(evaluator, layout)
    assert [stage.num_layers for stage in plan.stages] == [0, 24, 24, 0]
    assert plan.args["pipeline_model_parallel_layout"] == "E|t*24|t*24|L"
    head = stated.model.vocab_size * stated.model.hidden_size
    assert plan.stages[0].parameters == head
    assert plan.stages[3].parameters == head + stated.model.hidden_size


def broken_pipeline(pp: int, vpp: int, text: str) -> list[tuple[str, dict[str, Any]]]:
    """Rules of the pipeline that a layout breaks; where it is no split, beside a short one."""
    stated = problem(gpus=24, settings=(f"{LAYOUT}={text}",))
    split = named_split(stated.settings, 48, pp, vpp) or PipelineSplit((((0, 1),),))
    sizes = Sizes(world_size=24, pp=pp, vpp=vpp, split=split)
    found = [(rule.id, rule.check(stated, sizes)) for rule in rules_for(stated, "pipeline")]
    return [(rule_id, values) for rule_id, values in found if values is not None]


@pytest.mark.parametrize(
    ("pp", "chunks", "nearest"),
    [(3, 2, (2, 1)), (4, 6, (3, 2)), (5, 8, (4, 2)), (2, 7, (7, 1)), (1, 4, (4, 1))],
)
def test_a_layout_of_other_chunks_is_told_its_nearest_pipeline(
    pp: int, chunks: int, nearest: tuple[int, int]
) -> None:
    """Of two stages or more, as the layout has chunks, and no second error beside it."""
    text = "|".join(["Et"] + ["t"] * (chunks - 2) + [f"t*{49 - chunks}L"])
    ((rule_id, values),) = broken_pipeline(pp, 1, text)
    assert (rule_id, (values["nearest_pp"], values["nearest_vpp"])) == ("layout_stages", nearest)
    assert broken_pipeline(*nearest, text) == []


def test_layers_that_a_layout_lacks_are_told_before_its_stages() -> None:
    assert [rule_id for rule_id, _ in broken_pipeline(3, 1, "Et*24|t*20L")] == [
        "layout_layers",
        "layout_stages",
    ]


def test_a_rule_that_every_layout_breaks_is_told_before_one_that_more_break_first() -> None:
    stated = problem("Qwen2.5-7B", topology="a100-8x-ib", settings=("fp8_format=hybrid",))
    found = search(Evaluator(stated))
    first = max(found.rejected, key=lambda rule: found.rejected[rule].count)
    error = nothing_found(stated, found)
    assert (found.legal, first) == (0, "dense_model")
    assert error.message_id == "input.never_legal"
    assert "does not run on A100" in error.message and "all " in error.message


def test_a_search_keeps_to_the_split_that_is_named() -> None:
    stated = problem(settings=(f"{FIRST}=20",))
    found = search(Evaluator(stated))
    assert found.ranked
    for candidate in found.ranked:
        layout = candidate.layout(stated)
        assert layout.pp > 1 and layout.split.num_layers(0) == 20


@pytest.mark.parametrize(
    "settings",
    [
        ("lr=3e-5", "weight_decay=0.05", "report_to=tensorboard,wandb"),
        (AWARE, "exp_avg_dtype=bf16", "main_grads_dtype=bf16"),
        ("optimizer=sgd", "use_distributed_optimizer=false"),
        ("fp8_format=hybrid", "fp8_recipe=blockwise", "moe_expert_capacity_factor=2"),
        ("train_iters=100", "finetune=false", "overlap_grad_reduce=false"),
        ("train_iters=100", "streaming=true", "loss_scale=last_round", "use_chat_template=false"),
        ("train_iters=9", "streaming=true", "val_dataset=v.jsonl", "eval_iters=3"),
        ("use_chat_template=false", "truncation_strategy=split"),
        ("weight_decay_incr_style=cosine", "start_weight_decay=0", "end_weight_decay=0.1"),
    ],
    ids=" ".join,
)
def test_whatever_is_set_stands_in_the_arguments_under_its_own_name(
    settings: tuple[str, ...],
) -> None:
    stated = problem(settings=settings)
    check_settings(stated)
    evaluator = Evaluator(stated)
    split = evaluator.split(2, 1)
    assert split is not None
    args = make_plan(evaluator, Layout(world_size=16, pp=2, ep=8, split=split)).args
    for name, value in stated.settings.given.items():
        assert args[name] == value, name
    assert ("num_train_epochs" in args) == ("train_iters" not in args)


@given(cases())
def test_a_plan_that_nothing_is_set_for_has_no_argument_of_settings(case: Case) -> None:
    args = make_plan(Evaluator(case.problem), case.layout).args
    table = setting_table()
    strange = [
        name
        for name in args
        if table[name].kind.value == "setting"
        and name not in SPLIT_FLAGS
        and name
        not in (
            *("optimizer", "use_distributed_optimizer", "target_modules"),
            "moe_token_dispatcher_type",
        )
    ]
    assert strange == []
    assert all(name in table for name in args)


def test_every_argument_can_be_set_or_says_why_not() -> None:
    for flag in setting_table().values():
        assert (flag.spec is not None) == (flag.kind in SETTABLE)
        assert flag.why
        assert flag.instead or flag.kind.value != "refused"
        if flag.spec is None:
            with pytest.raises(UsageError) as error:
                read_settings([f"{flag.name}=1"])
            assert flag.name in error.value.message
            assert flag.why in " ".join(error.value.lines)


def test_names_may_be_written_as_options_are() -> None:
    read = read_settings(["--lr-decay-style=linear", "optimizer-cpu-offload=TRUE"])
    assert dict(read.given) == {"lr_decay_style": "linear", "optimizer_cpu_offload": True}


def test_parameters_are_gathered_only_by_the_distributed_optimizer() -> None:
    stated = problem(settings=("use_distributed_optimizer=false",))
    assert stated.recipe.overlap_param_gather is False
    assert "distributed optimizer" in stated.recipe.reasons["overlap_param_gather"]


def test_named_modules_are_adapted_and_no_others() -> None:
    def trainable(*modules: str) -> int:
        settings = (f"target_modules={','.join(modules)}",)
        stated = problem(settings=settings, tuner_type=TunerType.LORA)
        evaluator = Evaluator(stated)
        split = evaluator.split(1, 1)
        assert split is not None
        layout = Layout(world_size=16, ep=8, split=split)
        return evaluator.batch(layout).parameters(0).trainable

    attention = trainable("linear_qkv") + trainable("linear_proj")
    assert trainable("linear_qkv", "linear_proj") == attention
    assert trainable("linear_fc1") == trainable("experts.linear_fc1")
    assert trainable("all-linear") == attention + trainable("linear_fc1", "linear_fc2")


def test_what_is_set_does_not_hide_in_another_problem() -> None:
    """A problem without settings evaluates as it did."""
    stated = problem(settings=(OFFLOAD,))
    plain = replace(stated, settings=problem().settings)
    assert Evaluator(plain).states.moments == 8
    assert Evaluator(stated).states.moments == 0


@given(cases())
def test_no_rule_of_a_setting_is_broken_where_nothing_is_set(case: Case) -> None:
    """So that a search without settings need not ask them."""
    sizes = Sizes(
        world_size=case.layout.world_size,
        tp=case.layout.tp,
        cp=case.layout.cp,
        pp=case.layout.pp,
        ep=case.layout.ep,
        etp=case.layout.etp,
        vpp=case.layout.vpp,
        micro_batch_size=case.layout.micro_batch_size,
        recompute=case.layout.recompute,
        split=case.layout.split,
    )
    assert [rule.id for rule in SETTING_RULES if rule.check(case.problem, sizes)] == []
