"""What is quoted is read back exactly."""

import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launch.text import comment, fill, shell_array, yaml_value
from planner.dialects import words
from planner.swift_args import ArgValue

# Any text that a file name can be: what is not UTF-8 in it, Python holds as lone surrogates.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.sampled_from("\udc80\udcff\x85\u2028\ufeff'\"$`\\#:|>-")
)
VALUES: st.SearchStrategy[ArgValue] = (
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
) | st.lists(TEXTS, min_size=1)


@given(VALUES)
def test_yaml_gives_ms_swift_the_words_of_the_command_line(value: ArgValue) -> None:
    """ms-swift 4.6 writes `str` of what YAML holds after the flag, and takes True for true."""
    read = yaml.safe_load(f"flag: {yaml_value(value)}")["flag"]
    read_words = [str(item) for item in read] if isinstance(read, list) else [str(read)]
    expected = [word.capitalize() if isinstance(value, bool) else word for word in words(value)]
    assert read_words == expected


@given(st.lists(st.lists(TEXTS, min_size=1), min_size=1, max_size=5))
def test_bash_reads_back_the_words_of_an_array(rows: list[list[str]]) -> None:
    script = f"{shell_array('words', rows)}\nprintf '%s\\0' \"${{words[@]}}\""
    ran = subprocess.run(
        ["bash", "-c", script.encode("utf-8", "surrogateescape")], capture_output=True, check=True
    )
    read = ran.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]
    assert read == [word for row in rows for word in row]


@given(TEXTS)
def test_a_comment_stays_on_its_line(text: str) -> None:
    safe = comment(text)
    assert len(safe.splitlines()) <= 1
    assert safe.isprintable()


@given(name=TEXTS, other=TEXTS)
def test_a_template_replaces_names_and_nothing_in_their_values(
    tmp_path_factory: pytest.TempPathFactory, name: str, other: str
) -> None:
    template = tmp_path_factory.mktemp("template") / "t"
    template.write_text("$1 @@name ${x%%y}\n@@other\nend\n", encoding="utf-8")
    line = f"{other}\n" if other else ""
    assert fill(template, name=name, other=other) == f"$1 {name} ${{x%%y}}\n{line}end\n"


def test_every_name_of_a_template_needs_a_value(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("@@missing\n")
    with pytest.raises(KeyError):
        fill(tmp_path / "t")
