"""The stacks that come with the planner, and files of users."""

from pathlib import Path

import pytest

from planner.assumptions import assumptions
from planner.errors import UsageError
from planner.inputs import Request, to_problem
from planner.layout import Layout
from planner.releases import minor_of, out_of_range, releases, version_of
from planner.split import even_split
from planner.stack import DEFAULT_STACK, FIELDS, STACKS_FOLDER, known_stacks, load_stack


def test_the_default_stack_comes_with_the_planner() -> None:
    assert DEFAULT_STACK in known_stacks()


@pytest.mark.parametrize("name", known_stacks())
def test_every_stack_loads_with_a_source_for_every_value(name: str) -> None:
    stack = load_stack(name)

    assert stack.name == name
    assert stack.megatron_core_version >= (0, 15, 0)
    assert set(stack.sources) == set(FIELDS) and all(stack.sources.values())
    assert set(stack.assumed) <= set(stack.sources)


@pytest.mark.parametrize("name", known_stacks())
def test_a_stack_that_comes_with_the_planner_holds_versions_that_go_together(name: str) -> None:
    stack = load_stack(name)

    assert list(out_of_range(stack.ms_swift, stack.mcore_bridge, stack.megatron_core)) == []
    assert stack.dialect == minor_of(stack.ms_swift)


def test_every_release_of_ms_swift_has_a_stack_of_its_newest_patch() -> None:
    for minor, release in releases().ms_swift.items():
        stack = load_stack(f"ms-swift-{minor}")
        assert (stack.ms_swift, stack.dialect) == (release.newest, minor)
        assert bool(stack.mcore_bridge) == (release.mcore_bridge is not None)


# -- one stack based on another


def based_on(tmp_path: Path, name: str, text: str = "") -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(f"description: mine\nbased_on: {name}\n{text}")
    return str(path)


def test_what_a_file_leaves_out_is_as_in_the_stack_that_it_is_based_on(tmp_path: Path) -> None:
    base = load_stack("ms-swift-4.4")
    text = "megatron_core:\n  value: 0.19.2\n  source: ours\n  assumed: true\n"
    stack = load_stack(based_on(tmp_path, "MS-swift-4.4", text))

    assert (stack.name, stack.description, stack.dialect) == ("mine", "mine", "4.4")
    differing = [name for name in FIELDS if getattr(stack, name) != getattr(base, name)]
    assert differing == ["megatron_core"] == list(stack.assumed)
    assert (stack.megatron_core, stack.sources["megatron_core"]) == ("0.19.2", "ours")


def test_another_ms_swift_has_its_own_arguments(tmp_path: Path) -> None:
    text = "ms_swift:\n  value: 4.2.1\n  source: ours\n"
    assert load_stack(based_on(tmp_path, "ms-swift-4.6", text)).dialect == "4.2"


def test_a_file_can_only_be_based_on_a_stack_that_comes_with_the_planner(tmp_path: Path) -> None:
    for name in ("ms-swift-4.9", "./mine.yaml", "mine.yaml"):
        with pytest.raises(UsageError) as caught:
            load_stack(based_on(tmp_path, name))
        assert caught.value.message_id == "stack.unknown"


def test_without_a_base_a_missing_key_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: mine\nms_swift:\n  value: 4.6.0\n  source: ours\n")
    with pytest.raises(UsageError, match="mcore_bridge is missing"):
        load_stack(str(path))


# -- releases whose arguments are not known


@pytest.mark.parametrize(
    ("version", "dialect"), [("4.7.0", "4.6"), ("4.7.0.dev0", "4.6"), ("5.0.1", "4.6")]
)
def test_a_newer_ms_swift_is_taken_for_the_newest_that_is_known(
    tmp_path: Path, version: str, dialect: str
) -> None:
    text = f"ms_swift:\n  value: {version}\n  source: ours\n"
    stack = load_stack(based_on(tmp_path, "ms-swift-4.6", text))

    assert (stack.dialect, stack.assumed) == (dialect, ("dialect",))
    assert version in stack.sources["dialect"]


def test_an_older_ms_swift_is_refused(tmp_path: Path) -> None:
    text = "ms_swift:\n  value: 3.11.3\n  source: ours\n"
    with pytest.raises(UsageError) as caught:
        load_stack(based_on(tmp_path, "ms-swift-3.12", text))
    assert caught.value.message_id == "stack.too_old"
    assert "3.11.3" in caught.value.message and "3.12" in caught.value.fix


# -- another megatron-core


@pytest.mark.parametrize("minor", releases().megatron_core)
@pytest.mark.parametrize("name", ["ms-swift-4.6", "MS-SWIFT-4.6"])
def test_a_name_may_be_followed_by_another_megatron_core(name: str, minor: str) -> None:
    stack = load_stack(f"{name}+megatron-core-{minor}")

    assert stack.megatron_core == releases().megatron_core[minor]
    assert stack.name == f"ms-swift-4.6+megatron-core-{minor}"
    assert stack.sources["megatron_core"] == "--stack"
    assert load_stack(f"{name}+Megatron-core-{minor}.7").megatron_core == f"{minor}.7"


@pytest.mark.parametrize(
    "name",
    [
        "ms-swift-4.6+megatron-core-0.14",
        "ms-swift-4.6+megatron-core-0",
        "ms-swift-4.6+megatron-core",
        "ms-swift-4.6+torch-2.8",
        "ms-swift-4.6+",
        "+megatron-core-0.19",
        "ms-swift-4.9+megatron-core-0.19",
    ],
)
def test_what_follows_a_name_must_be_a_megatron_core_that_is_known(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_stack(name)
    assert caught.value.message_id == "stack.unknown"
    assert "ms-swift-" in caught.value.fix


# -- versions that do not go together


@pytest.mark.parametrize(
    ("versions", "out"),
    [
        (("4.6.0", "1.6.5", "0.19.2"), []),
        (("4.6.0", "1.6.5", "0.20.0"), ["megatron-core"]),
        (("4.6.0", "1.6.5", "0.20.0rc1"), ["megatron-core"]),
        (("4.6.0", "1.6.5", "0.15.3"), ["megatron-core"]),
        (("4.6.0", "1.5.2", "0.17.1"), ["mcore-bridge"]),
        (("4.6.0", "1.4.3", "0.18.0"), ["mcore-bridge", "megatron-core"]),
        (("4.1.3", "1.2.0", "0.17.1"), ["megatron-core"]),  # the wheel permits it, documents do not
        (("3.12.6", "", "0.16.1"), ["megatron-core"]),
        (("9.9", "9.9", "9.9"), []),
        (("", "", ""), []),
    ],
)
def test_versions_outside_of_what_a_release_permits_are_found(
    versions: tuple[str, str, str], out: list[str]
) -> None:
    found = list(out_of_range(*versions))
    assert [each.package for each in found] == out
    for each in found:
        assert each.version in versions and not each.permitted.permits(each.version)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("4.6.0", (4, 6, 0)),
        ("0.18.0rc0+abc", (0, 18, 0)),
        ("2.11.0+cu130", (2, 11, 0)),
        ("v4.5", (4, 5)),
        ("main", ()),
        ("", ()),
    ],
)
def test_the_numbers_of_a_version(text: str, numbers: tuple[int, ...]) -> None:
    assert version_of(text) == numbers


def test_a_plan_says_that_its_versions_do_not_go_together() -> None:
    request = Request(gpus=8, model="Qwen3-30B-A3B", stack="ms-swift-4.6+megatron-core-0.15")
    split = even_split(48, 1)
    assert split is not None
    layout = Layout(world_size=8, split=split)
    found = assumptions(to_problem(request), layout, request.given)
    told = [each for each in found if "stack" in each.id]

    assert [(each.id, each.value) for each in told] == [
        ("stack.out_of_range.megatron-core", "0.15.3")
    ]
    assert ">=0.16,<0.20" in told[0].source


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
