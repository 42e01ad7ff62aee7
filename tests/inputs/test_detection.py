"""What an image holds: lists of packages, the nearest stack, and the file that is written."""

import json
import re
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measure.installed import installed_packages
from measure.new_file import write_new_file
from planner.detection import CAPABILITIES, VERSIONS, Capability, check_complete, detect
from planner.errors import UsageError
from planner.freeze import Package, normalized, parse_freeze
from planner.stack import FIELDS, Stack, known_stacks, load_stack
from planner.stack_draft import draft

FREEZE = """\
# This file is frozen
-e git+https://github.com/modelscope/ms-swift.git@v4.5.3#egg=ms_swift
# Editable install with no version control (mcore-bridge==1.6.3)
-e /src/mcore-bridge
apex @ file:///wheels/apex-0.1-cp312-cp312-linux_x86_64.whl#sha256=00
deep_ep @ git+https://github.com/deepseek-ai/DeepEP.git@0123abcd
flash_attn==2.8.3
megatron-core[mlm]==0.18.0 ; python_version >= "3.12"
torch===2.11.0+cu130
transformer_engine @ git+https://github.com/NVIDIA/TransformerEngine.git@v2.16
"""
LIST = """\
Package            Version       Editable project location
------------------ ------------- -------------------------
apex               0.1
deep_ep            1.2.1+0123abc
flash_attn         2.8.3
mcore-bridge       1.6.3         /src/mcore-bridge
megatron-core      0.18.0
ms_swift           4.5.3         /src/ms-swift
torch              2.11.0+cu130
transformer_engine 2.16.0
"""


def versions(text: str) -> dict[str, str]:
    return {package.name: package.version for package in parse_freeze(text, origin="a list")}


def test_pip_freeze_is_read_in_all_its_forms() -> None:
    assert versions(FREEZE) == {
        "ms-swift": "4.5.3",
        "mcore-bridge": "1.6.3",
        "apex": "0.1",
        "deep-ep": "",
        "flash-attn": "2.8.3",
        "megatron-core": "0.18.0",
        "torch": "2.11.0+cu130",
        "transformer-engine": "2.16",
    }


def test_pip_list_and_conda_list_are_read_too() -> None:
    assert versions(LIST) == {**versions(FREEZE), "deep-ep": "1.2.1+0123abc"} | {
        "transformer-engine": "2.16.0"
    }
    conda = "# Name    Version    Build  Channel\nmegatron-core  0.18.0  pypi_0  pypi\n"
    assert versions(conda) == {"megatron-core": "0.18.0"}


@pytest.mark.parametrize("text", ["", "\n\n", "hello\n", "# ms-swift==4.6.0\n", "{}", "-e /src\n"])
def test_a_text_that_names_no_package_is_told(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_freeze(text, origin="a list")
    assert caught.value.message_id == "freeze.empty"


NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
NUMBERS = st.from_regex(
    r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(rc[0-9])?(\+[a-z0-9]{1,8})?", fullmatch=True
)


@given(st.lists(st.tuples(NAMES, NUMBERS), min_size=1))
def test_what_pip_writes_is_read_back(packages: list[tuple[str, str]]) -> None:
    expected = tuple(Package(normalized(name), version) for name, version in packages)
    frozen = "\n".join(f"{name}=={version}" for name, version in packages)
    assert parse_freeze(frozen, origin="a list") == expected
    table = "\n".join(f"{name:30} {version:20} /src/{name}" for name, version in packages)
    assert parse_freeze(f"Package Version\n------- -------\n{table}", origin="a list") == expected


WORDS = st.sampled_from(
    ["ms-swift", "megatron-core", "torch", "4.6.0", "0.18.0+cu130", "@v4.6", "git+https://h/"]
)
SIGNS = st.sampled_from(
    ["==", " @ ", "-e ", "#egg=", " ", "\n", "# Editable (", ")", "[", "-", ".whl", "9" * 99]
)


@given(st.lists(WORDS | SIGNS | st.text(max_size=5)).map("".join))
def test_any_text_is_read_or_told(text: str) -> None:
    """And whatever was read gives a stack that is written and read back, or a sentence why not."""
    try:
        packages = parse_freeze(text, origin="a list")
        found = detect(packages, origin="a list")
        check_complete(found)
    except UsageError as error:
        assert error.message_id in {"freeze.empty", "stack.incomplete", "stack.too_old"}
        return
    assert all(re.fullmatch(r"[a-z0-9-]{1,100}", package.name) for package in packages)
    read_back(draft(found))


def read_back(text: str) -> Stack:
    """Return the stack of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.yaml"
        path.write_text(text)
        return load_stack(str(path))


# -- the nearest stack


def packages_of(**versions: str) -> tuple[Package, ...]:
    """Return the packages of an image by the fields of a stack."""
    return tuple(
        Package(VERSIONS[field][0] if field in VERSIONS else normalized(field), version)
        for field, version in versions.items()
    )


@pytest.mark.parametrize("name", known_stacks())
def test_a_known_stack_is_the_nearest_to_itself_without_a_difference(name: str) -> None:
    stack = load_stack(name)
    held = {field: getattr(stack, field) for field in VERSIONS if getattr(stack, field)}
    packages = packages_of(**held, **({"apex": "0.1"} if stack.apex else {}))
    found = detect(packages, origin="an image")

    assert found.nearest.name == name
    assert (found.differences, found.out_of_range, found.notes) == ([], [], [])


@pytest.mark.parametrize(
    ("versions", "nearest"),
    [
        ({"ms_swift": "4.4.0", "megatron_core": "0.16.1"}, "ms-swift-4.4"),
        ({"ms_swift": "4.6.1", "megatron_core": "0.18.2"}, "gpu-kit-2026-11"),
        ({"ms_swift": "3.10.3", "megatron_core": "0.15.0"}, "ms-swift-3.12"),
        ({"ms_swift": "5.1.0", "megatron_core": "0.21.0"}, "gpu-kit-2026-11"),
    ],
)
def test_the_release_of_ms_swift_counts_before_that_of_megatron_core(
    versions: dict[str, str], nearest: str
) -> None:
    assert detect(packages_of(**versions), origin="an image").nearest.name == nearest


def test_how_torch_was_built_is_no_difference() -> None:
    found = detect(packages_of(ms_swift="4.6.0", torch="2.11.0+cu130"), origin="an image")
    assert "torch" not in {each.field for each in found.differences}


# -- what is told


@pytest.mark.parametrize(
    ("packages", "note"),
    [
        (packages_of(ms_swift="4.6.0"), "megatron-core is not installed"),
        (packages_of(ms_swift="", megatron_core="0.17.1"), "ms-swift does not say its version"),
        (packages_of(ms_swift="3.9.3", megatron_core="0.14.0"), "3.9.3 is older than 3.12"),
        (
            packages_of(ms_swift="4.5.1", megatron_core="0.17.1"),
            "4.5.1 are taken to be those of 4.5.3",
        ),
        (packages_of(ms_swift="4.8.0", megatron_core="0.17.1"), "4.8.0 are not known"),
        (
            (
                *packages_of(ms_swift="4.6.0", megatron_core="0.17.1"),
                Package("megatron-core", "0.16"),
            ),
            "megatron-core is there in versions 0.16 and 0.17.1",
        ),
        (packages_of(ms_swift="4.6.0", apex="0.9.10.dev0"), "apex 0.9.10.dev0 is not NVIDIA's"),
    ],
)
def test_what_is_wrong_with_an_image_is_told(packages: tuple[Package, ...], note: str) -> None:
    told = [each.text for each in detect(packages, origin="an image").notes]
    assert any(note in text for text in told), told


def test_versions_that_do_not_go_together_are_found() -> None:
    packages = packages_of(ms_swift="4.6.0", mcore_bridge="1.6.5", megatron_core="0.20.0rc1")
    found = detect(packages, origin="an image").out_of_range
    assert [(each.package, str(each.permitted)) for each in found] == [
        ("megatron-core", ">=0.16,<0.20")
    ]


def test_packages_beside_the_stack_are_held_against_what_ms_swift_permits() -> None:
    packages = packages_of(ms_swift="4.4.2", transformers="5.13.0", peft="0.19.1")
    found = detect(packages, origin="an image").out_of_range
    assert [(each.package, str(each.permitted)) for each in found] == [
        ("transformers", ">=4.33,<5.13.0")
    ]


@pytest.mark.parametrize("capability", CAPABILITIES, ids=[each.id for each in CAPABILITIES])
def test_every_distribution_of_a_capability_counts(capability: Capability) -> None:
    for name in capability.distributions:
        found = detect((Package(normalized(name), "0.1"),), origin="an image")
        there = {key: version for key, version in found.capabilities.items() if version}
        assert there == {capability.id: "0.1"}


# -- what is written


def test_a_stack_is_written_as_it_is_found_and_the_rest_is_marked() -> None:
    found = detect(parse_freeze(FREEZE, origin="pip.txt"), origin="pip.txt")
    stack = read_back(draft(found))

    nearest = load_stack("ms-swift-4.5")
    assert (stack.ms_swift, stack.megatron_core, stack.dialect) == ("4.5.3", "0.18.0", "4.5")
    assert (stack.torch, stack.flash_attention) == ("2.11.0+cu130", "2.8.3")
    assert (stack.apex, stack.dispatchers) == (True, ("alltoall", "flex"))
    assert stack.assumed == ("attention_backend", "allocator_setting")
    assert stack.allocator_setting == nearest.allocator_setting
    assert all("pip.txt" in stack.sources[field] for field in VERSIONS)


def test_without_flash_attention_another_backend_is_taken() -> None:
    packages = packages_of(ms_swift="4.6.0", megatron_core="0.17.1", transformer_engine="")
    stack = read_back(draft(detect(packages, origin="an image")))
    assert (stack.attention_backend, stack.flash_attention, stack.apex) == ("auto", "", False)
    assert stack.assumed == ("transformer_engine", "allocator_setting")
    assert "does not say which" in stack.sources["transformer_engine"]


@given(
    st.dictionaries(
        st.sampled_from([*VERSIONS, "apex", "deep_ep"]),
        st.text(string.ascii_lowercase + string.digits + ".+-", max_size=12),
    ),
    st.text(max_size=9),
)
def test_every_file_that_is_written_is_read_back(versions: dict[str, str], origin: str) -> None:
    found = detect(packages_of(**versions), origin=origin)
    try:
        check_complete(found)
    except UsageError as error:
        assert error.message_id in {"stack.incomplete", "stack.too_old"}
        return
    stack = read_back(draft(found))
    assert set(stack.sources) >= set(FIELDS)


def test_a_file_is_never_written_over_and_never_half(tmp_path: Path) -> None:
    path = tmp_path / "image.yaml"
    write_new_file(path, "first")
    with pytest.raises(UsageError) as caught:
        write_new_file(path, "second")
    assert caught.value.message_id == "output.exists"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError):
        write_new_file(tmp_path / "dangling", "third")
    for folder in (tmp_path / "missing", path):
        with pytest.raises(UsageError) as caught:
            write_new_file(folder / "image.yaml", "fourth")
        assert caught.value.message_id == "output.file_unwritable"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dangling", "image.yaml"]
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("first", 0o644)


def test_this_environment_is_seen_without_importing_it() -> None:
    """The test environment holds the pinned stack."""
    seen = {package.name: package.version for package in installed_packages()}
    assert (seen["ms-swift"], seen["mcore-bridge"]) == ("4.6.0", "1.6.5")
    code = (
        "import sys; from measure.installed import installed_packages; installed_packages();"
        "print([name for name in ('torch', 'swift', 'megatron') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout.replace("'", '"')) == []
