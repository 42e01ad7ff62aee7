"""The stacks that come with the planner, and files of users."""

from pathlib import Path

import pytest

from planner.errors import UsageError
from planner.stack import DEFAULT_STACK, STACKS_FOLDER, known_stacks, load_stack


def test_the_default_stack_comes_with_the_planner() -> None:
    assert DEFAULT_STACK in known_stacks()


@pytest.mark.parametrize("name", known_stacks())
def test_every_stack_loads_with_a_source_for_every_value(name: str) -> None:
    stack = load_stack(name)

    assert stack.name == name
    assert stack.megatron_core_version >= (0, 15, 0)
    assert all(stack.sources.values()) and "megatron_core" in stack.sources
    assert set(stack.assumed) <= set(stack.sources)


def test_the_stack_of_the_measurements() -> None:
    stack = load_stack("gpu-kit-2026-11")

    assert stack.megatron_core_version == (0, 18, 1)
    assert (stack.transformer_engine, stack.apex) == ("2.12.0", False)
    assert stack.attention_backend == "auto"
    assert stack.allocator_setting == "expandable_segments:True"
    assert stack.dispatchers == ("alltoall",)


def test_names_do_not_depend_on_case() -> None:
    assert load_stack("MS-Swift-4.6") == load_stack("ms-swift-4.6")


def test_an_unknown_stack_is_told_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        load_stack("ms-swift-4.7")

    assert caught.value.message_id == "stack.unknown"
    assert "ms-swift-4.6" in caught.value.fix


def changed(tmp_path: Path, old: str, new: str) -> str:
    text = (STACKS_FOLDER / "ms-swift-4.6.yaml").read_text()
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


def test_a_file_of_the_user_is_named_after_the_file(tmp_path: Path) -> None:
    stack = load_stack(changed(tmp_path, "value: 0.17.1", "value: 0.19.2"))

    assert (stack.name, stack.megatron_core_version) == ("mine", (0, 19, 2))


@pytest.mark.parametrize(
    ("old", "new", "message_id", "words"),
    [
        ("apex:", "apexx:", "file.unknown_key", ["apexx", "apex"]),
        ("value: true", "valu: true", "file.unknown_key", ["apex.valu", "value"]),
        ("value: true", "value: maybe", "file.bad_value", ["apex.value", "maybe"]),
        ("value: 0.17.1", "value: 0.17", "file.bad_value", ["megatron_core.value", "0.17"]),
        ("value: flash", "value: fast", "file.bad_value", ["attention_backend.value", "fast"]),
        ("[alltoall]", "[deepep]", "file.bad_value", ["dispatchers.value", "deepep"]),
        ("[alltoall]", "[]", "file.bad_value", ["dispatchers.value"]),
        ("  value: 2.11.0\n", "", "file.missing_key", ["torch.value"]),
        ("apex:", "apex", "file.not_yaml", ["mine.yaml", "line"]),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_is_near(
    tmp_path: Path, old: str, new: str, message_id: str, words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        load_stack(changed(tmp_path, old, new))

    told = f"{caught.value.message} {caught.value.fix}"
    assert caught.value.message_id == message_id
    assert "\n" not in told
    assert [word for word in words if word not in told] == []


def test_a_path_that_does_not_exist_is_told() -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_stack("./nowhere.yaml")
