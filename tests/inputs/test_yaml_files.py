"""Files that people write, spoiled in every way: one clear line, whatever is wrong."""

import json
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
from planner.recipe import RECIPES_FOLDER
from planner.recipe_schema import RecipeFile
from planner.site import _SiteFile, load_site
from planner.stack import STACKS_FOLDER, _StackFile, load_stack
from planner.topology_files import TOPOLOGIES_FOLDER, load_topology
from planner.topology_schema import TopologyFile
from planner.yaml_files import (
    PATTERN_WORDS,
    StrictModel,
    load_yaml,
    load_yaml_model,
    named_file,
    shortened,
    suggestion,
)

TEXTS = [path.read_text() for path in sorted(STACKS_FOLDER.glob("*.yaml"))] + [
    path.read_text() for path in sorted(TOPOLOGIES_FOLDER.glob("*.yaml"))
]

TOPOLOGY = yaml.safe_load((TOPOLOGIES_FOLDER / "h100-8x-ib.yaml").read_text())
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


SITE_MISTAKES = {
    "": "the file: must be a mapping of keys (got nothing)",
    "- 1": "the file: must be a mapping of keys (got [1])",
    "workspace: w": "workspace: must be an absolute path (got 'w')",
    "workspace: 5": "workspace: must be text in quotes (got 5)",
    "dataset: x": "dataset: must be a list (got 'x')",
    "dataset: [a, 1]": "dataset.1: must be text in quotes (got 1)",
    "env: {1A: x}": "env.1A: must be a name of letters, digits and _, no digit first (got '1A')",
    "env: [a]": "env: must be a mapping of keys (got ['a'])",
    "image: a b": "image: must hold nothing but letters, digits and _ . : / @ - (got 'a b')",
    "dlc: {cpu: null}": "dlc.cpu: must be text (got nothing)",
    "mounts: [{mount_path: /a}]": "mounts.0: give either data_source_id or uri",
}


@pytest.mark.parametrize("text", SITE_MISTAKES)
def test_a_mistake_of_a_site_is_told_in_plain_words(path: Path, text: str) -> None:
    path.write_text(text)

    with pytest.raises(UsageError) as caught:
        load_site(path)

    assert SITE_MISTAKES[text] in caught.value.message


TOPOLOGY_MISTAKES = {
    "gpus_per_node: '8'": "must be a whole number (got '8')",
    "gpus_per_node: 0": "must be at least 1 (got 0)",
    "gpus_per_node: 5000": "must be at most 4096 (got 5000)",
    "cpus_per_node: {value: 1, source: ''}": "cpus_per_node.source: must not be empty (got '')",
    "cpus_per_node: 1": "cpus_per_node: must be a mapping of keys (got 1)",
    "host_memory_gib: {value: x, source: y}": "host_memory_gib.value: must be a number (got 'x')",
    "host_memory_gib: {value: 0, source: y}": "must be at least 0.001",
    "gpu: [1]": "gpu: must be a mapping of keys (got [1])",
}


@pytest.mark.parametrize("text", TOPOLOGY_MISTAKES)
def test_a_mistake_of_a_topology_is_told_in_plain_words(path: Path, text: str) -> None:
    path.write_text(yaml.safe_dump(TOPOLOGY | yaml.safe_load(text)))

    with pytest.raises(UsageError) as caught:
        load_topology(str(path), 2)

    assert TOPOLOGY_MISTAKES[text] in caught.value.message


def patterns_of(schema: Any) -> set[str]:
    """Every pattern of a JSON schema; those of keys stand as keys of patternProperties."""
    if isinstance(schema, list):
        return {one for each in schema for one in patterns_of(each)}
    if not isinstance(schema, dict):
        return set()
    own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
    return own | {*schema.get("patternProperties", {})} | patterns_of([*schema.values()])


def test_every_pattern_has_plain_words_and_no_words_are_left_over() -> None:
    models = (_SiteFile, _StackFile, TopologyFile, RecipeFile)
    found = set().union(*(patterns_of(model.model_json_schema()) for model in models))

    assert found == set(PATTERN_WORDS)


@pytest.mark.parametrize("path", [*RECIPES_FOLDER.glob("*.yaml")], ids=lambda path: path.stem)
def test_recipes_of_the_planner_are_as_their_schema_would_have_read_them(path: Path) -> None:
    content = load_yaml(path)
    read = RecipeFile.model_validate(content).model_dump(exclude_unset=True)

    assert json.dumps(content) == json.dumps(read)


def test_a_byte_order_mark_is_no_mistake(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfnumber: 1")

    assert load_yaml_model(path, Example).number == 1


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
