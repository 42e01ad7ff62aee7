"""The table of settings is ms-swift's own list of arguments, and what it says of them holds."""

import random
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import UsageError
from planner.parameters import rank_parameters
from planner.pipeline_layout import layout_chunks
from planner.precision import state_bytes
from planner.setting_conflicts import check_settings
from planner.setting_table import Flag, Kind, setting_table
from planner.settings import Settings
from planner.workload import TunerType
from stack.candidates import candidate
from stack.real_stack import RealStack
from stack.setting_candidates import AWARE, DEEPSEEK, QWEN3, REPLICATED, named
from stack.wheel import classes_of_package, wheel_fields

pytestmark = pytest.mark.stack

TABLE = setting_table()
SET = [flag for flag in TABLE.values() if flag.spec is not None]


def spec_of(flag: Flag) -> Any:
    assert flag.spec is not None
    return flag.spec


def test_the_table_has_every_argument_and_no_other(stack: RealStack) -> None:
    assert set(TABLE) == set(stack.call("options", subcommand="megatron sft"))


def test_types_and_choices_are_those_of_the_release(stack: RealStack) -> None:
    real = wheel_fields(
        classes_of_package(Path(stack.call("package_folder"))), "MegatronSftArguments"
    )
    wrong = {}
    for flag in SET:
        spec, field = spec_of(flag), real[flag.name]
        type_ = "list" if field.many else field.type
        narrowed = type_ == "list" or (type_, spec.type) == ("float", "int")
        if spec.type != type_ and not narrowed:
            wrong[flag.name] = (spec.type, type_)
        choices = {str(c) for c in spec.choices if not isinstance(c, bool)} | set(spec.refused)
        optional = {"None", "none"}  # which is to leave it out
        if field.choices and choices and choices - optional != set(field.choices) - optional:
            wrong[flag.name] = (choices, field.choices)
    assert wrong == {}


def test_every_choice_of_the_real_parser_is_one_here_and_no_other(stack: RealStack) -> None:
    """So that no value that --set takes ends as an error of the parser; a list has its items'."""
    options = stack.call("options", subcommand="megatron sft")
    wrong = {}
    for flag in SET:
        spec = spec_of(flag)
        real = set(options[flag.name]["choices"]) - {"None", "none"}  # which is to leave it out
        ours = ({str(choice) for choice in spec.choices} | set(spec.refused)) - {"none"}
        if real and spec.type != "bool" and ours != real:
            wrong[flag.name] = (ours, real)
    assert wrong == {}


def test_loggers_are_those_that_the_trainer_has(stack: RealStack) -> None:
    """Of a list that has no choices in the parser."""
    folder = Path(stack.call("package_folder"))
    source = (folder / "megatron" / "callbacks" / "mapping.py").read_text("utf-8")
    known = set(re.findall(r"'(\w+)': ", source)) - {"print", "default_flow"}
    assert set(spec_of(TABLE["report_to"]).choices) == known


def test_defaults_are_those_of_the_release(stack: RealStack) -> None:
    """What is not set is what ms-swift does without the argument."""
    options = stack.call("options", subcommand="megatron sft")
    for field in fields(Settings):
        if field.name != "given":
            ours = getattr(Settings(), field.name)
            ours = list(ours) if isinstance(ours, tuple) else ours
            assert repr(ours) == options[field.name]["default"], field.name


def example(flag: Flag) -> str:
    """A value that the planner takes."""
    spec = spec_of(flag)
    if spec.choices:
        return str(spec.choices[-1]).lower() if spec.type == "bool" else str(spec.choices[-1])
    if spec.type in ("int", "float"):
        least = spec.least if spec.least is not None else spec.above
        return str(1 if least is None else least if spec.least is not None else least + 0.5)
    texts = {
        "callbacks": "print",
        "target_modules": "linear_qkv",
        "pipeline_model_parallel_layout": "Et*6|t*6L",
    }
    return (
        {"bool": "true", "str": "one", "list": "one,two"}[spec.type]
        if (flag.name not in texts)
        else texts[flag.name]
    )


def test_every_value_that_is_handed_on_is_one_that_the_parser_takes(stack: RealStack) -> None:
    """Free flags and those of recipes, all at once in fours, so that a stray one is found."""
    free = [flag for flag in SET if flag.kind in (Kind.FREE, Kind.RECIPE)]
    real = wheel_fields(
        classes_of_package(Path(stack.call("package_folder"))), "MegatronSftArguments"
    )
    for flag in free:
        words = example(flag).split(",") if spec_of(flag).type == "list" else [example(flag)]
        numbers = flag.name in ("interleave_prob",)
        assert numbers or real[flag.name].refuses(words) is None, (flag.name, words)


letters = st.text(alphabet="EtmL|,(()**123 x", max_size=24)


@given(text=letters)
@settings(max_examples=300)
def test_layout_strings_are_read_as_megatron_reads_them(stack: RealStack, text: str) -> None:
    try:
        ours: list[str] | None = layout_chunks(text)
    except UsageError:
        ours = None
    assert ours == stack.call("layout_chunks", text=text)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        (AWARE,),
        (AWARE, "main_grads_dtype=bf16"),
        (AWARE, "main_grads_dtype=bf16", "accumulate_allreduce_grads_in_fp32=true"),
        (AWARE, "main_params_dtype=fp16", "exp_avg_dtype=bf16"),
        (REPLICATED,),
        (REPLICATED, "optimizer=sgd"),
        ("optimizer_cpu_offload=true",),
    ],
    ids=lambda flags: " ".join(flags) or "as planned",
)
def test_gradients_and_master_weights_are_as_large_as_the_planner_says(
    stack: RealStack, short_folders: dict[str, Path], flags: tuple[str, ...]
) -> None:
    """On a rank of four; what FusedAdam keeps inside is not megatron-core's."""
    tried = candidate(QWEN3, 4, parallel={"ep": 2}, settings=flags)
    made = stack.optimizer(short_folders[QWEN3], 4, tried.flags(stack.megatron_core))
    assert made["refused"] is None

    states = state_bytes(tried.settings)
    aware = tried.settings.use_precision_aware_optimizer
    problem, split = tried.problem(stack.megatron_core), tried.sizes.split
    assert split is not None
    from planner.layout import Layout

    layout = Layout(world_size=4, ep=2, split=split)
    held = rank_parameters(problem.model, layout, problem.workload, 0)
    sharded = tried.settings.use_distributed_optimizer
    shards = held.trainable_dense / 4 + held.trainable_expert / 2
    assert made["gradients"] == pytest.approx(held.trainable * states.gradient, rel=1e-4)
    master = 0 if aware else (shards if sharded else held.trainable) * states.master
    assert made["master"] == pytest.approx(master, rel=2e-2)  # buckets end anywhere


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        (QWEN3, "linear_qkv"),
        (QWEN3, "linear_qkv,linear_proj"),
        (QWEN3, "experts.linear_fc1"),
        (QWEN3, "all-linear"),
        (DEEPSEEK, "linear_fc2"),
        (DEEPSEEK, "shared_experts.linear_fc1,linear_kv_up_proj"),
        (DEEPSEEK, "mlp.linear_fc1"),
        (DEEPSEEK, "eh_proj"),
    ],
)
def test_adapters_of_named_modules_are_counted_as_they_are_built(
    stack: RealStack, short_folders: dict[str, Path], model: str, targets: str
) -> None:
    tried = candidate(
        model,
        4,
        parallel={"tp": 2, "ep": 2},
        settings=(f"target_modules={targets}",),
        tuner_type=TunerType.LORA,
        mtp_num_layers=int("deepseek" in model),
    )
    from planner.layout import Layout

    problem, split = tried.problem(stack.megatron_core), tried.sizes.split
    assert split is not None
    layout = Layout(world_size=4, tp=2, ep=2, split=split)
    held = rank_parameters(problem.model, layout, problem.workload, 0)
    (chunk,) = stack.build(short_folders[model], 4, tried.flags(stack.megatron_core), rank=0)
    assert chunk["trainable_total"] == held.trainable
    assert chunk["trainable_expert"] == held.trainable_expert
    assert chunk["total"] == held.total


REFUSED = {
    "muon": ({"optimizer": "muon", "overlap_grad_reduce": False, "overlap_param_gather": False}),
    "dist_muon": {"optimizer": "dist_muon"},
}


@pytest.mark.parametrize("optimizer", ["muon", "dist_muon"])
def test_muon_needs_a_package_that_the_stack_does_not_bring(
    stack: RealStack, short_folders: dict[str, Path], optimizer: str
) -> None:
    flags = {**named().flags(stack.megatron_core), **REFUSED[optimizer]}
    refused = stack.optimizer(short_folders[QWEN3], 1, flags)["refused"]
    assert refused is not None and "merging" in refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"use_megatron_fsdp": True}, "CUDA_DEVICE_MAX_CONNECTIONS"),
        ({"async_save": True}, "async_save is not supported with save_total_limit"),
        ({"group_by_length": True}, "group_by_length is not compatible with padding_free"),
        ({"tuner_type": "lora_llm"}, "only supported for multimodal models"),
        ({"tp_comm_overlap": True}, "only when sequence parallelism is enabled"),
        ({"save_total_limit": 1}, "save_total_limit must be greater than or equal to 2"),
        ({"freeze_parameters_ratio": 0.5}, "freeze_parameters_ratio"),
        ({"fp4_format": "e2m1", "fp8_format": "hybrid"}, "fp4 and fp8 cannot be used"),
        ({"moe_enable_deepep": True}, "only supported with flex token dispatcher"),
        ({"muon_lr": 1e-4}, "require `--optimizer muon`"),
        ({"end_weight_decay": 0.1}, "megatron_args.py"),  # an assertion without words
        ({"weight_decay_incr_style": "linear", "start_weight_decay": 0.0}, "megatron_args.py"),
        ({"response_prefix": "-x"}, "expected one argument"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_set_refuses_and_the_stack_too(
    stack: RealStack, short_folders: dict[str, Path], flags: dict[str, Any], words: str
) -> None:
    tried = {**named("decoder_first_pipeline_num_layers=6", pp=2).flags("0.16.1"), **flags}
    refused = stack.refusal(short_folders[QWEN3], 2, tried)
    assert refused is not None and words in refused


@pytest.mark.parametrize(
    "settings",
    [
        ("weight_decay_incr_style=cosine", "start_weight_decay=0", "end_weight_decay=0.1"),
        ("use_chat_template=false", "truncation_strategy=split", "loss_scale=last_round"),
        ("seed=1", "adam_beta1=0", "adam_beta2=0", "adam_eps=1e-30"),
        ("moe_expert_capacity_factor=0.5", "moe_token_drop_policy=position"),
    ],
    ids=" ".join,
)
def test_what_set_takes_and_the_stack_too(
    stack: RealStack, short_folders: dict[str, Path], settings: tuple[str, ...]
) -> None:
    flags = named(*settings).flags(stack.megatron_core)
    assert stack.refusal(short_folders[QWEN3], 1, flags) is None


STREAM = ("streaming=true", "train_iters=9")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (STREAM, None),
        ((*STREAM, "val_dataset=v.jsonl", "eval_iters=3"), None),
        (("streaming=true",), "Please explicitly specify `--train_iters`"),
        ((*STREAM, "save_strategy=epoch"), "not supported with `--save_strategy epoch`"),
        ((*STREAM, "val_dataset=v.jsonl"), "Please explicitly specify `--eval_iters`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_streams_are_trained_on_where_their_steps_are_said(
    stack: RealStack,
    short_folders: dict[str, Path],
    settings: tuple[str, ...],
    words: str | None,
) -> None:
    """By the stack, and so by the planner."""
    tried = named(*settings)
    refused = stack.stream(short_folders[QWEN3], 1, tried.flags(stack.megatron_core))
    assert refused is None if words is None else refused and words in refused
    problem = tried.problem(stack.megatron_core)
    if words is None:
        check_settings(problem)
        return
    with pytest.raises(UsageError) as error:
        check_settings(problem)
    assert error.value.message_id == "setting.conflict"


def test_settings_that_need_another_are_forgotten_by_the_stack(
    stack: RealStack, short_folders: dict[str, Path]
) -> None:
    """The stack takes them without it and does nothing, so that the planner refuses them."""
    alone = {
        "fp8_recipe": "tensorwise",
        "optimizer_offload_fraction": 0.5,
        "accumulate_allreduce_grads_in_fp32": False,
        "lora_dropout": 0.1,
        "target_modules": "linear_qkv",
    }
    plain = named().flags(stack.megatron_core)
    folder = short_folders[QWEN3]
    assert stack.build(folder, 1, {**plain, **alone}, 0) == stack.build(folder, 1, plain, 0)


@pytest.mark.parametrize(
    ("recipe", "parallel", "multiple"),
    [
        ("delayed", {}, 16),
        ("tensorwise", {"tp": 2, "ep": 2}, 32),
        ("mxfp8", {"cp": 2}, 64),
        ("blockwise", {"tp": 2, "cp": 2, "ep": 2}, 512),
    ],
)
def test_sequences_are_padded_to_blocks_of_fp8(
    stack: RealStack,
    short_folders: dict[str, Path],
    recipe: str,
    parallel: dict[str, int],
    multiple: int,
) -> None:
    """As ms-swift pads them; the planner wants a length that needs no padding."""
    flags = ("fp8_format=hybrid", f"fp8_recipe={recipe}")
    shuffle = random.Random(0)
    for length in (multiple * 17, multiple * 17 + shuffle.randrange(2, multiple, 2)):
        tried = candidate(QWEN3, 4, parallel=parallel, settings=flags, seq_length=length)
        padded = stack.padding(short_folders[QWEN3], 4, tried.flags(stack.megatron_core))
        assert padded == multiple
        broken = [rule.id for rule in tried.broken(stack.megatron_core)]
        assert broken == ([] if length % multiple == 0 else ["sequence_shards"])
