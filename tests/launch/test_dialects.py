"""The names and values of each release, held against its own source."""

import ast
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import golden_cases, make_run
from stack import wheel

from convert.direction import Direction, has_single_process
from convert.scripts import PRECISION, conversion_args, smoke_args
from launch.arguments import model_args, train_args
from planner.dialects import (
    CANONICAL_RELEASE,
    Flags,
    dropped,
    load_dialect,
    model_folder_name,
    model_hint,
    model_hints,
    spelled_out,
    translate,
    words,
)
from planner.errors import UsageError
from planner.flag_history import Command, new_flags, old_name
from planner.releases import releases, version_of
from planner.run import Run
from planner.stack import load_stack

RELEASES = list(releases().ms_swift)
OLDER = RELEASES[:-1]
COMMANDS: list[Command] = ["megatron", "swift export"]
CANONICAL = {command: wheel.fields_of(CANONICAL_RELEASE, command) for command in COMMANDS}


def runs_of(release: str) -> list[Run]:
    """Return runs of every kind, with the stack of a release."""
    stack = load_stack(f"ms-swift-{release}")
    return [replace(case.run, stack=stack) for case in golden_cases()]


def check(flags: Flags, fields: Mapping[str, wheel.Field], release: str) -> None:
    for flag, value in flags.items():
        assert flag in fields, f"ms-swift {release} has no --{flag}"
        assert fields[flag].refuses(words(value)) is None, flag


def test_the_newest_release_is_the_canonical_one() -> None:
    assert RELEASES[-1] == CANONICAL_RELEASE


@pytest.mark.parametrize("release", ["", "4", "4.7", "a\nb" * 99])
def test_a_release_that_is_not_known_is_told(release: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_dialect(release)
    assert caught.value.message_id == "flag.unknown_release"
    assert "\n" not in caught.value.message and len(caught.value.message) < 120
    assert "3.12, 4.0" in caught.value.fix


@pytest.mark.parametrize("release", RELEASES)
def test_the_wheel_of_a_release_is_the_one_of_its_table(release: str) -> None:
    assert wheel.wheel(release).name.split("-")[1] == releases().ms_swift[release].newest


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_release_permits_is_what_its_wheel_asks_for(release: str) -> None:
    """The highest of its lower bounds, and the lowest of its upper ones."""
    asked, known = wheel.requirements(release), releases().ms_swift[release]
    assert ("mcore-bridge" in asked) == (known.mcore_bridge is not None)
    permitted = {**known.others, "mcore-bridge": known.mcore_bridge}
    for package, each in permitted.items():
        if each is not None:
            lower = [spec[2:] for spec in asked[package] if spec.startswith(">=")]
            upper = [spec[1:] for spec in asked[package] if not spec.startswith(">=")]
            assert each.at_least == max(lower, key=version_of), package
            assert each.before == min(upper, key=version_of, default=None), package


@pytest.mark.parametrize("release", RELEASES)
def test_every_flag_is_a_field_of_the_release_with_a_value_that_it_takes(release: str) -> None:
    fields = wheel.fields_of(release, "megatron sft")
    for run in runs_of(release):
        check(translate(train_args(run), load_dialect(release)), fields, release)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("command", ["megatron export", "swift export"])
def test_every_flag_of_a_conversion_is_a_field_too(
    release: str, direction: Direction, command: str
) -> None:
    single_process = command == "swift export"
    fields = wheel.fields_of(release, command)
    stack = load_stack(f"ms-swift-{release}")
    carrying = make_run("GLM-4.5-Air", ep=8)  # layers that are not trained
    for run in [*runs_of(release), replace(carrying, stack=stack)]:
        if single_process and not has_single_process(run, direction):
            continue
        args = conversion_args(run, direction, single_process=single_process)
        args |= PRECISION | ({} if single_process else {"merge_lora": False})
        flags = translate(args, load_dialect(release), single_process=single_process)
        check(flags, fields, release)


@pytest.mark.parametrize("release", RELEASES)
def test_every_flag_of_a_first_answer_is_a_field_too(release: str) -> None:
    fields = wheel.fields_of(release, "swift infer")
    for run in runs_of(release):
        check({"model": "hf/checkpoint-1", **smoke_args(run)}, fields, release)


# -- the tables


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_tables_know_which_flags_each_release_has(command: Command, release: str) -> None:
    has = {flag for flag in CANONICAL[command] if new_flags().has(flag, release, command)}
    public = {flag for flag in CANONICAL[command] if not flag.startswith("_")}
    fields = set(wheel.fields_of(release, command))
    assert has & public == fields & public


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_older_name_is_a_field_of_the_release_of_the_same_type(
    command: Command, release: str
) -> None:
    fields = wheel.fields_of(release, command)
    for flag in CANONICAL[command]:
        found = None if flag in fields else old_name(flag, release, command)
        if found is not None:
            assert fields[found[0]].type == CANONICAL[command][flag].type, flag
            assert not found[1].inverted or fields[found[0]].type == "bool"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_value_is_refused_exactly_where_the_release_does_not_take_it(
    command: Command, release: str
) -> None:
    """Every choice of every flag of 4.6 that the release has, two of them, and half of one."""
    fields = wheel.fields_of(release, command)
    for flag in set(CANONICAL[command]) & set(fields):
        field, new = fields[flag], CANONICAL[command][flag]
        for value in sample_values(flag, new, command):
            refused = field.refuses(words(value)) is not None
            assert is_refused(flag, value, release, command) == refused, (flag, value)


def sample_values(flag: str, field: wheel.Field, command: Command) -> Iterator[Any]:
    yield from field.choices
    yield from new_flags().values[command].get(flag, ())
    if field.type == "float":
        yield 0.5
    if field.many:
        free = {"int": ["1", "2"], "float": ["0.1", "0.2"], "str": ["a", "b"]}[field.type]
        yield sorted(field.choices)[:2] or free


def is_refused(flag: str, value: Any, release: str, command: Command) -> bool:
    dialect = load_dialect(release)
    try:
        said = translate({flag: value}, dialect, single_process=command == "swift export")
    except UsageError as error:
        assert error.message_id == "flag.value_too_new"
        assert release in error.message and "later" in error.fix
        return True
    assert said == {flag: value}
    return False


def test_what_is_left_out_for_older_releases_is_missing_there() -> None:
    for flag in new_flags().left_out:
        since = new_flags().first_release(flag, "megatron")
        assert since is not None and flag in wheel.fields_of(since, "megatron sft")


@pytest.mark.parametrize("release", RELEASES)
def test_the_defaults_that_a_stack_names_are_those_of_its_release(release: str) -> None:
    fields, stack = wheel.fields_of(release, "megatron sft"), load_stack(f"ms-swift-{release}")
    assert stack.attention_backend == fields["attention_backend"].default
    assert [fields["moe_token_dispatcher_type"].default] == list(stack.dispatchers)


@pytest.mark.parametrize("release", OLDER[1:])
def test_no_default_of_an_older_release_changes_what_a_plan_does(release: str) -> None:
    """A default that is not 4.6's is written out, or does not matter to fine-tuning."""
    harmless = {
        "scale_rewards",  # of reinforcement learning
        "kl_in_reward",
        "dsa_indexer_loss_coeff",  # None is 0
        "dataloader_persistent_workers",  # of processes that read data
    }
    fields, said = wheel.fields_of(release, "megatron sft"), set()
    for run in runs_of(release):
        said |= translate(train_args(run), load_dialect(release)).keys()
    for flag, field in wheel.fields_of(CANONICAL_RELEASE, "megatron sft").items():
        if flag in fields and flag not in said | harmless:
            assert repr(default_of(fields[flag])) == repr(default_of(field)), flag


def default_of(field: wheel.Field) -> Any:
    is_source = isinstance(field.default, ast.expr)
    return ast.unparse(field.default) if is_source else field.default


def test_what_is_spelled_out_is_not_said_twice() -> None:
    dialect = load_dialect("4.1")
    args: Flags = {"cross_entropy_loss_fusion": True}
    assert spelled_out(args, dialect) == {"cross_entropy_fusion_impl": "native"}
    assert spelled_out({**args, "cross_entropy_fusion_impl": "te"}, dialect) == {}
    assert spelled_out(args, load_dialect("4.4")) == spelled_out({}, dialect) == {}


# -- translation


@given(
    st.sampled_from(OLDER),
    st.dictionaries(st.sampled_from(sorted(CANONICAL["megatron"])), st.booleans(), max_size=9),
)
def test_no_flag_is_lost(release: str, args: dict[str, Any]) -> None:
    """Each is said under one name, left out with a reason, or refused."""
    dialect = load_dialect(release)
    refused = []
    for flag, value in args.items():
        try:
            flags = translate({flag: value}, dialect)
        except UsageError as error:
            assert error.message_id == "flag.too_new" and flag in error.message
            refused.append(flag)
            continue
        assert len(flags) + len(dropped({flag: value}, dialect)) == 1
    kept = {flag: value for flag, value in args.items() if flag not in refused}
    said = len(translate(kept, dialect))
    assert said + len(dropped(kept, dialect)) + len(refused) == len(args)


def test_booleans_of_the_opposite_sense_are_inverted() -> None:
    args: Flags = {"gradient_accumulation_fusion": True}
    assert translate(args, load_dialect("3.12")) == {"no_gradient_accumulation_fusion": False}
    assert translate(args, load_dialect("4.0")) == args


def test_what_a_release_cannot_say_is_left_out_with_a_reason() -> None:
    args: Flags = {"save_total_limit": 2, "lr": 1e-5}
    assert translate(args, load_dialect("3.12")) == {"lr": 1e-5}
    assert list(dropped(args, load_dialect("3.12"))) == ["save_total_limit"]
    assert dropped(args, load_dialect("4.0")) == {}


def test_a_list_of_one_and_a_whole_number_are_said_as_older_releases_read_them() -> None:
    args: Flags = {"moe_aux_loss_coeff": ["0.001"], "lora_alpha": 32.0}
    assert translate(args, load_dialect("4.2")) == {"moe_aux_loss_coeff": "0.001", "lora_alpha": 32}
    assert translate(args, load_dialect("4.6")) == args


def test_a_flag_that_went_and_came_back_is_refused_between() -> None:
    args: Flags = {"megatron_extra_kwargs": "{}"}
    assert [release for release in RELEASES if not says(args, release)] == ["4.0", "4.1", "4.2"]


def says(args: Flags, release: str) -> bool:
    try:
        return translate(args, load_dialect(release)) == args
    except UsageError:
        return False


# -- models that ms-swift recognises


def model_sources(release: str) -> Iterator[str]:
    """Return the sources in which a release registers models."""
    folder = "swift/llm/model/model/" if release == "3.12" else "swift/model/models/"
    with zipfile.ZipFile(wheel.wheel(release)) as archive:
        for name in archive.namelist():
            if name.startswith(folder) and name.endswith(".py"):
                yield archive.read(name).decode("utf-8")


@cache
def registered(release: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return per model name, in lower case, its model_type and the templates of that type."""
    models: dict[str, tuple[str, frozenset[str]]] = {}
    for source in model_sources(release):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ModelMeta" and node.args:
                model_type = ast.unparse(node.args[0]).rsplit(".", 1)[-1]
                templates = frozenset(
                    part.attr
                    for part in ast.walk(node)
                    if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "TemplateType"
                )
                for name in _model_names(node):
                    models.setdefault(name.rsplit("/", 1)[-1].lower(), (model_type, templates))
    return models


def _model_names(meta: ast.Call) -> Iterator[str]:
    for part in ast.walk(meta):
        if isinstance(part, ast.Call) and ast.unparse(part.func) == "Model":
            yield from (
                argument.value
                for argument in part.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


@pytest.mark.parametrize("release", ["3.12", "4.6"])
def test_known_names_are_names_that_the_release_knows(release: str) -> None:
    for model_type, hints in model_hints().items():
        unknown = set(hints.known_names) - set(registered(release))
        assert not unknown, model_type


@pytest.mark.parametrize("release", RELEASES)
def test_hints_are_a_type_and_a_template_that_the_release_has(release: str) -> None:
    """A release that does not know the type at all cannot train the model."""
    pairs = set(registered(release).values())
    types = {kind for kind, _ in pairs}
    for model_type in model_hints():
        hint = model_hint(model_type, "/models/renamed", release)
        assert hint is not None
        known = any(hint.model_type == kind and hint.template in has for kind, has in pairs)
        assert known or (release in OLDER and hint.model_type not in types), hint


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/Qwen3-30B-A3B/", "qwen3-30b-a3b"),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("/hub/models--Qwen--Qwen3-30B-A3B/snapshots/0123abcd", "qwen3-30b-a3b"),
        ("/cache/Qwen/Qwen2___5-7B", "qwen2.5-7b"),
    ],
)
def test_the_name_of_a_model_folder_is_found_as_ms_swift_finds_it(path: str, name: str) -> None:
    assert model_folder_name(path) == name


def test_a_folder_with_another_name_is_described() -> None:
    assert model_hint("qwen3_moe", "/models/Qwen3-30B-A3B", "4.6") is None
    hint = model_hint("qwen3_moe", "/models/step-1200", "4.6")
    assert hint is not None
    assert (hint.model_type, hint.template) == ("qwen3_moe", "qwen3")


def test_the_site_decides_how_a_model_is_read() -> None:
    case = next(case for case in golden_cases() if case.name == "moe-lora-4.6")
    assert model_args(case.run)["template"] == "qwen3"
