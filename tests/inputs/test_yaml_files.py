"""Files that people write, spoiled in every way: one clear line, whatever is wrong."""

import os
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import UsageError
from planner.stack import STACKS_FOLDER, load_stack
from planner.topology_files import TOPOLOGIES_FOLDER, load_topology
from planner.yaml_files import StrictModel, load_yaml_model, named_file, shortened, suggestion

TEXTS = [path.read_text() for path in sorted(STACKS_FOLDER.glob("*.yaml"))] + [
    path.read_text() for path in sorted(TOPOLOGIES_FOLDER.glob("*.yaml"))
]

CONTENTS = [yaml.safe_load(text) for text in TEXTS]


class Example(StrictModel):
    number: int = 0


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "spoiled.yaml"


def loads_or_tells(path: Path) -> None:
    for load in (load_stack, lambda name: load_topology(name, 2).links):
        try:
            load(str(path))
        except UsageError as error:
            told = error.message.replace(str(path), "")
            assert "\n" not in told and len(told) < 600


yaml_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)


@st.composite
def spoiled_contents(draw: st.DrawFn) -> Any:
    """A good file with a key removed, renamed, replaced or added at any depth."""
    content = deepcopy(draw(st.sampled_from(CONTENTS)))
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while True:
            key = draw(st.sampled_from([*place, "new"]))
            if isinstance(place.get(key), dict) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            break
        match draw(st.sampled_from(["remove", "replace", "rename"])):
            case "remove":
                place.pop(key, None)
            case "replace":
                place[key] = draw(yaml_values)
            case "rename":
                place[draw(yaml_values.filter(lambda v: v.__hash__))] = place.pop(key, None)
    return content


@settings(max_examples=1500)
@given(content=spoiled_contents())
def test_a_spoiled_file_is_told_in_one_line(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    loads_or_tells(path)


@settings(max_examples=1000)
@given(
    text=st.sampled_from(TEXTS),
    start=st.integers(0, 2000),
    length=st.integers(0, 40),
    new=st.text(alphabet="\0\t\n :-[]{}&*!|>'\"%@`,?#~ax1.\x85\u2028", max_size=6),
)
def test_spoiled_text_is_told_in_one_line(
    path: Path, text: str, start: int, length: int, new: str
) -> None:
    path.write_text(text[:start] + new + text[start + length :], encoding="utf-8")
    loads_or_tells(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"- 1",
        b"text",
        b"[" * 10_000,
        b"a: &a [*a]",
        b"number: &a {b: *a}",
        b"number: " + b"9" * 5000,
        b"number: 2026-99-99",
        b"number: 1e400",
        b"!!python/object:os.system x",
        b"number: 1\nnumber: [",
        b"x" * (2**20 + 1),
    ],
)
def test_a_file_that_is_no_mapping_of_known_keys_is_told(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(UsageError) as caught:
        load_yaml_model(path, Example)

    assert "\n" not in caught.value.message.replace(str(path), "")


def test_a_folder_and_a_missing_file_are_told(tmp_path: Path) -> None:
    for bad in (tmp_path, tmp_path / "gone.yaml", Path("a\0b.yaml"), Path("x" * 5000)):
        with pytest.raises(UsageError) as caught:
            load_yaml_model(bad, Example)
        assert caught.value.message_id == "file.unreadable"


def test_a_name_is_a_path_when_it_looks_like_one(tmp_path: Path) -> None:
    (tmp_path / "Mine.yaml").write_text("")

    assert named_file("mine", tmp_path) == tmp_path / "Mine.yaml"
    assert named_file("other", tmp_path) is None
    assert named_file("other.yaml", tmp_path) == Path("other.yaml")
    assert named_file(f"{tmp_path}{os.sep}x", tmp_path) == tmp_path / "x"


@given(st.text(), st.lists(st.text(min_size=1), min_size=1))
def test_a_suggestion_names_something_known(name: str, known: list[str]) -> None:
    assert any(one in suggestion(name, known) for one in known)


@given(yaml_values)
def test_a_shortened_value_is_one_short_line(value: Any) -> None:
    assert len(shortened(value)) <= 60 and "\n" not in shortened(value)
