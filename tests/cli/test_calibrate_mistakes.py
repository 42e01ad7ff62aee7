"""Logs and folders that `plan calibrate` cannot read, and whatever else stands in a log."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from calibrated import ERROR, LOGS, run_of, swift_row, write_log, write_run
from console import plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import problem

from planner.evaluate import Evaluator
from planner.problem import Problem
from planner.run import Run
from planner.search import search


def fastest_run(asked: Problem) -> Run:
    return run_of(asked, search(Evaluator(asked)).ranked[0].layout(asked))


@pytest.fixture(scope="module")
def asked() -> Problem:
    return problem(gpus=16, routing_imbalance=1.2)


@pytest.fixture(scope="module")
def run(asked: Problem) -> Run:
    return fastest_run(asked)


Change = Callable[[Path, Path], Sequence[object]]


def _text(folder: Path, log: Path, text: str) -> Sequence[object]:
    log.write_text(text)
    return (log,)


def _gone(folder: Path, log: Path) -> Sequence[object]:
    (folder / "run.json").unlink()
    return (log,)


def _of_before(folder: Path, log: Path) -> Sequence[object]:
    """A run.json of a planner that did not say what was asked for."""
    content = json.loads((folder / "run.json").read_text())
    del content["asked"]
    (folder / "run.json").write_text(json.dumps(content))
    return (log,)


def _existing(folder: Path, log: Path) -> Sequence[object]:
    (folder / "mine.yaml").write_text("mine")
    return (log, "--output", folder / "mine.yaml")


def _other_topology(folder: Path, log: Path) -> Sequence[object]:
    other = problem(gpus=16, topology="h100-8x-roce", routing_imbalance=1.2)
    run = fastest_run(other)
    return (log, write_log(write_run(folder / "two", run), run, other))


MISTAKES: dict[str, Change] = {
    "file.unreadable": lambda folder, log: (folder / "none.jsonl",),
    "calibrate.no_steps": lambda folder, log: _text(folder, log, "nothing\n"),
    "calibrate.too_few_steps": lambda folder, log: _text(
        folder, log, "".join(log.read_text().splitlines(keepends=True)[:4])
    ),
    "calibrate.no_run": _gone,
    "calibrate.not_asked": _of_before,
    "calibrate.other_hosts": lambda folder, log: (log, "--topology", "h20-8x-erdma"),
    "calibrate.runs": lambda folder, log: (log, "--run", folder, "--run", folder),
    "output.exists": _existing,
    "calibrate.nothing_to_write": lambda folder, log: (
        *_text(folder, log, ERROR.format(pieces="1.00 GiB")),
        *("--output", folder / "new.yaml"),
    ),
    "calibrate.two_topologies": _other_topology,
    "run.not_a_run": lambda folder, log: (
        log,
        *("--run", _text(folder, folder / "run.json", "{}") and folder),
    ),
}


@pytest.mark.parametrize("id_", MISTAKES)
def test_mistakes_are_told_in_one_line(tmp_path: Path, asked: Problem, run: Run, id_: str) -> None:
    log = write_log(write_run(tmp_path, run), run, asked, steps=12)
    words = MISTAKES[id_](tmp_path, log)
    ran = plan("calibrate", *words)
    assert ran.status == 2 and ran.out == "" and ran.err.count("\n") == 1
    assert plan("calibrate", *words, "--json").answer["error"]["id"] == id_
    mine = tmp_path / "mine.yaml"
    assert not mine.exists() or mine.read_text() == "mine"


PIECES = [
    swift_row(1, 30.0),
    swift_row(2, 32.0),
    "".join(swift_row(n, 30.0 + 2 * n) for n in range(3, 12)),
    ERROR.format(pieces="3.49 GiB") + "\n",
    (LOGS / "oom-backward.txt").read_text(),
    "[rank3]: Traceback (most recent call last):\n",
    '[rank3]:   File "a.py", line 1, in forward\n',
    "[rank99999]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB.\n",
    "    batch-generator ......: (1.0, 1e9)\n    optimizer ....: (1.0, 2.0)\n",
    "\x00\x1b[31m\r\n",
]


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=30), max_size=6), st.integers(0, 99))
def test_any_log_is_answered(
    tmp_path_factory: pytest.TempPathFactory, run: Run, pieces: list[str], cut: int
) -> None:
    """An answer, or one line; never a traceback."""
    folder = tmp_path_factory.mktemp("fuzz")
    log = write_run(folder, run) / "train.log"
    text = "".join(pieces).encode("utf-8", "surrogatepass")
    log.write_bytes(text[: len(text) - len(text) * cut // 400])
    ran = plan("calibrate", log)
    assert ran.status in (0, 2), ran
    if ran.status == 2:
        assert ran.out == "" and ran.err.startswith("error: ") and ran.err.count("\n") == 1
    assert "\x1b" not in ran.out + ran.err
