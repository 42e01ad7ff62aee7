"""What became of the flags of 3.x, held against the wheels of 3.12.6 and all later releases."""

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from stack import wheel

from planner.cli import app
from planner.errors import UsageError
from planner.flag_history import Command, old_flags, old_name
from planner.old_flags import explain_option, explain_setting, hint, plan_flags, way
from planner.recipe import RECIPES_FOLDER, load_recipe
from planner.releases import releases, version_of
from planner.site import Site, load_site
from planner.workload import TunerType

RELEASES = list(releases().ms_swift)
OLDEST, NEWEST = RELEASES[0], RELEASES[-1]
COMMANDS: list[Command] = ["megatron", "swift export"]
RENAMED = old_flags().renamed
REMOVED = {flag for group in old_flags().removed for flag in group.flags}
VANISHED = {
    command: wheel.fields_of(OLDEST, command).keys() - wheel.fields_of(NEWEST, command).keys()
    for command in COMMANDS
}


def releases_with(flag: str) -> list[str]:
    """Return the releases in which any command has a flag."""
    return [
        release
        for release in RELEASES
        if any(flag in wheel.fields_of(release, command) for command in COMMANDS)
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_that_vanished_has_an_entry(command: Command) -> None:
    assert VANISHED[command] - RENAMED.keys() - REMOVED == set()


def test_every_entry_is_of_a_flag_that_vanished_and_stands_once() -> None:
    listed = [*RENAMED, *(flag for group in old_flags().removed for flag in group.flags)]
    assert sorted(listed) == sorted(VANISHED["megatron"] | VANISHED["swift export"])


@pytest.mark.parametrize("old", RENAMED)
def test_a_flag_is_gone_since_the_release_named_and_its_successor_is_there(old: str) -> None:
    renamed = RENAMED[old]
    last = releases_with(old)[-1]
    assert RELEASES[RELEASES.index(last) + 1] == renamed.gone
    for release in RELEASES[RELEASES.index(renamed.gone) :]:
        assert renamed.now in wheel.fields_of(release, renamed.command)


@pytest.mark.parametrize("old", RENAMED)
def test_since_is_when_the_new_name_came_if_that_was_before_the_old_one_went(old: str) -> None:
    found = hint(old)
    assert found is not None and found.now is not None
    has = [release for release in releases_with(found.now) if version_of(release) > version_of("3")]
    assert found.since == (has[0] if has[0] != OLDEST else RENAMED[old].gone)


@pytest.mark.parametrize("old", [old for old, renamed in RENAMED.items() if renamed.is_plain])
def test_what_is_only_renamed_has_the_same_type(old: str) -> None:
    renamed = RENAMED[old]
    before = wheel.fields_of(OLDEST, renamed.command)[old]
    now = wheel.fields_of(NEWEST, renamed.command)[renamed.now]
    assert before.type == now.type and before.many >= now.many
    assert renamed.inverted == old.startswith("no_")


@pytest.mark.parametrize("flag", sorted(REMOVED))
def test_what_is_removed_went_with_4_0_and_says_why(flag: str) -> None:
    assert releases_with(flag) == [OLDEST]
    found = hint(flag)
    assert found is not None and found.now is None
    assert found.text.startswith(f"--{flag} is gone since ms-swift 4.0: ")


def test_flags_that_are_named_in_a_reason_exist() -> None:
    for group in old_flags().removed:
        for flag in re.findall(r"--(\w+)", group.instead):
            assert flag in wheel.fields_of(NEWEST, "megatron sft"), flag


def test_every_default_that_changed_is_listed_and_no_other() -> None:
    """Of flags that kept their name or were renamed; inverted with the sense."""
    now = wheel.fields_of(NEWEST, "megatron sft")
    changed = {
        flag: (before, default(now[flag]))
        for flag in now
        if (before := old_default(flag)) is not MISSING and before != default(now[flag])
    }
    listed = old_flags().defaults
    assert {flag: (each.before, each.now) for flag, each in listed.items()} == changed


def test_a_default_changed_with_the_release_named() -> None:
    for flag, changed in old_flags().defaults.items():
        values = [old_default(flag)]
        for release in RELEASES[1:]:
            values.append(default(wheel.fields_of(release, "megatron sft")[flag]))
        at = RELEASES.index(changed.since)
        assert values[at - 1] == changed.before and values[at:] == [changed.now] * len(values[at:])


MISSING = object()


def old_default(flag: str) -> Any:
    """Return the default in 3.12 of what a flag is called there; MISSING: it has none such."""
    fields = wheel.fields_of(OLDEST, "megatron sft")
    if flag in fields:
        return default(fields[flag])
    found = old_name(flag, OLDEST, "megatron")
    if found is None or found[0] not in fields:
        return MISSING
    before = default(fields[found[0]])
    return not before if found[1].inverted and isinstance(before, bool) else before


def default(field: wheel.Field) -> Any:
    """Return a default as a plain value; of a factory, what it makes."""
    if isinstance(field.default, ast.Lambda):
        return ast.literal_eval(field.default.body)
    return ast.unparse(field.default) if isinstance(field.default, ast.expr) else field.default


# -- what users read


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--max_epochs", "--max_epochs is called --num_train_epochs since ms-swift 4.0"),
        ("--train-type", "--train_type is called --tuner_type since ms-swift 4.0"),
        ("load", "--load is called --mcore_model since ms-swift 4.0"),
        (
            "no_initialization",
            "--no_initialization is called --perform_initialization since ms-swift 4.0, with the"
            " opposite sense",
        ),
        (
            "distributed_timeout_minutes",
            "--distributed_timeout_minutes became --ddp_timeout with ms-swift 4.0: seconds, not"
            " minutes",
        ),
    ],
)
def test_a_hint_says_what_it_is_called_now_and_since_when(flag: str, text: str) -> None:
    found = hint(flag)
    assert found is not None and found.text == text


@pytest.mark.parametrize("old", sorted(VANISHED["megatron"] | VANISHED["swift export"]))
def test_every_hint_is_one_sentence_that_names_the_flag(old: str) -> None:
    found = hint(f"--{old}")
    assert found is not None
    assert f"--{old} " in found.text and found.since in found.text and "\n" not in found.text


@pytest.mark.parametrize("flag", sorted(wheel.fields_of(NEWEST, "megatron")))
def test_a_flag_of_today_has_no_hint(flag: str) -> None:
    assert hint(flag) is None


@pytest.mark.parametrize("old", RENAMED)
def test_plan_says_its_own_way_to_set_every_flag_that_was_renamed(old: str) -> None:
    told = explain_option(f"--{old}", False, "")
    assert told is not None and told.message_id == "input.old_flag"
    assert way(RENAMED[old].now) in told.fix.removeprefix("with plan, ")


def test_what_plan_calls_a_flag_is_there() -> None:
    """Keys are flags of ms-swift, values options of plan, and of plan check where they say so."""
    table = plan_flags()
    flags = [*table.options, *table.searched, *table.site]
    assert set(flags) <= wheel.fields_of(NEWEST, "megatron sft").keys()
    assert set(table.site) <= {field.name for field in fields(Site)}
    of_search, of_check = (options(command) for command in (None, "check"))
    for text in table.options.values():
        found = of_check if "plan check" in text else of_search
        assert set(re.findall(r"--[a-z-]+", text)) <= found, text
    assert set(table.searched.values()) <= of_check


def test_names_of_others_lead_to_a_flag_or_to_a_reason() -> None:
    """And none of them is an argument of ms-swift itself, or one of 3.x."""
    table, known = plan_flags(), wheel.fields_of(NEWEST, "megatron sft").keys()
    for name, flag in table.foreign.items():
        assert name not in known and hint(name) is None, name
        assert flag in known or flag in table.elsewhere, name
        assert explain_setting(name), name
    assert not table.elsewhere.keys() & known


@pytest.mark.parametrize("old", RENAMED)
def test_set_says_the_way_of_plan_for_every_flag_that_was_renamed(old: str) -> None:
    told = explain_setting(old)
    assert told is not None and way(RENAMED[old].now) in told


@given(st.text())
def test_any_name_that_is_set_is_explained_or_not(name: str) -> None:
    told = explain_setting(name)
    assert told is None or told


def options(command: str | None) -> set[str]:
    """Return the options of plan, or of a command of it."""
    group: Any = typer.main.get_command(app)
    found = group if command is None else group.commands[command]
    return {option for parameter in found.params for option in parameter.opts}


def test_what_a_recipe_has_is_set_or_written_into_one() -> None:
    for flag in ("lr", "num_train_epochs", "ddp_timeout"):
        assert hasattr(load_recipe(TunerType.FULL), flag)
        assert way(flag) == f"give --set {flag}=VALUE, or set it in a YAML file for --recipe"


@given(st.text())
def test_any_text_has_a_hint_or_none(text: str) -> None:
    found = hint(text)
    assert found is None or found.old in text.replace("-", "_")
    told = explain_option(f"--{text}", False, "")
    assert told is None or isinstance(told, UsageError)


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("max_epochs", "--max_epochs is called --num_train_epochs since ms-swift 4.0"),
        (
            "train_type",
            "--train_type is called --tuner_type since ms-swift 4.0; with plan, use --tuner-type",
        ),
        (
            "tensor_model_parallel_size",
            "tensor_model_parallel_size is a flag of ms-swift: with plan, leave it to the search,"
            " or give --tp to plan check",
        ),
        ("num_train_epoch", "the nearest is num_train_epochs"),
    ],
)
def test_a_flag_of_ms_swift_as_a_key_of_a_recipe_is_told(
    tmp_path: Path, key: str, fix: str
) -> None:
    text = (RECIPES_FOLDER / "sft.yaml").read_text()
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text.replace("num_train_epochs:", f"{key}:"))
    with pytest.raises(UsageError) as caught:
        load_recipe(TunerType.FULL, str(recipe))
    assert (caught.value.message_id, caught.value.fix) == ("file.unknown_key", fix)


def test_a_flag_of_ms_swift_as_a_key_of_a_site_is_told(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("model_path: /m\nsave: /out\n")
    with pytest.raises(UsageError) as caught:
        load_site(site)
    assert caught.value.fix.startswith(
        "--save is called --output_dir since ms-swift 4.0; with plan"
    )
