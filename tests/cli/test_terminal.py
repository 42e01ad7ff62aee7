"""The installed `plan` among pipes, terminals and full disks."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from console import EXAMPLE, plan

from planner.model_files import MODELS_FOLDER

PLAN = Path(sys.executable).parent / "plan"
COMMAND = shlex.join([str(PLAN), *EXAMPLE])


def shell(command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line of bash."""
    return subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def on_a_terminal(env: Mapping[str, str]) -> str:
    """What the example prints on a terminal of 100 columns."""
    ours, theirs = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"COLUMNS": "100", "TERM": "xterm-256color", **env}
    process = subprocess.Popen([PLAN, *EXAMPLE], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0
    return written.decode().replace("\r\n", "\n")


def test_the_installed_command_prints_what_its_entry_does() -> None:
    ran = subprocess.run(
        [PLAN, *EXAMPLE],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ran.stdout, ran.stderr) == (plan(*EXAMPLE).out, "")


def test_into_a_pipe_the_text_has_the_full_width() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    ran = subprocess.run(
        [PLAN, *EXAMPLE],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == plan(*EXAMPLE, columns=100).out


@pytest.mark.parametrize("reader", ["head -1", "true", "head -c 10"])
@pytest.mark.parametrize("flags", ["", "--json --top 300"])
def test_a_reader_that_has_seen_enough_is_no_mistake(reader: str, flags: str) -> None:
    ran = shell(f"{COMMAND} {flags} | {reader}; echo ${{PIPESTATUS[0]}} >&2")
    assert ran.stderr in ("0\n", "141\n")  # 141: 128 + SIGPIPE, as of any other command


def test_a_full_disk_is_told_in_one_line() -> None:
    ran = shell(f"{COMMAND} > /dev/full")
    assert ran.returncode == 4
    assert ran.stderr.startswith("error: standard output cannot be written: no space left")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("flags", ["", "--json"])
def test_a_closed_output_is_told_in_one_line(flags: str) -> None:
    ran = shell(f"{COMMAND} {flags} >&-")
    assert ran.returncode == 4
    assert ran.stderr.startswith("error: standard output cannot be written: it is closed")


def test_a_path_that_is_not_text_is_shown_escaped(tmp_path: Path) -> None:
    ran = shell(f"cd {shlex.quote(str(tmp_path))} && {COMMAND} --topology $'./\\xff.yaml'")
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: \\udcff.yaml cannot be read")


def test_an_output_that_is_not_utf_8_gets_the_same_answer(tmp_path: Path) -> None:
    name = tmp_path / "m\u00f6del"
    name.mkdir()
    (name / "config.json").write_text((MODELS_FOLDER / "Qwen2.5-7B.json").read_text())
    words = f"{PLAN} --gpus 8 --model {shlex.quote(str(name))}"
    ran = shell(words, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "m\\xf6del" in ran.stdout
    ran = shell(f"{words} --json", {"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"})
    assert json.loads(ran.stdout)["inputs"]["model"]["name"] == "m\u00f6del"


def test_colours_are_for_terminals_without_no_color() -> None:
    coloured = on_a_terminal({})
    assert "\x1b[" in coloured
    plain = plan(*EXAMPLE).out
    assert re.sub(r" *\n", "\n", re.sub(r"\x1b\[[0-9;]*m", "", coloured)) == plain
    assert on_a_terminal({"NO_COLOR": "1"}) == plain


def test_the_same_question_has_the_same_answer() -> None:
    texts, answers = set(), []
    for seed in ("1", "2"):
        texts.add(shell(COMMAND, {"PYTHONHASHSEED": seed, "COLUMNS": "100"}).stdout)
        answers.append(json.loads(shell(f"{COMMAND} --json", {"PYTHONHASHSEED": seed}).stdout))
        assert answers[-1]["search"].pop("seconds") > 0
    assert len(texts) == 1
    assert json.dumps(answers[0]) == json.dumps(answers[1])
