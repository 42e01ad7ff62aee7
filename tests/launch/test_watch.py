"""moe-launch watch: a run's log beside its plan, and in words what strays."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden_files import check_golden
from hypothesis import given
from hypothesis import strategies as st
from runs import make_run

from launch.progress import Progress, strays
from launch.run_folder import write_run_folder
from launch.training_log import read_steps, since_last_start
from launch.watch import Log, Watcher, step_line, to_json
from planner.plan import StagePlan
from planner.run import Run

GIB = 2**30
STAGE = StagePlan(
    stage=0,
    worst_rank=0,
    num_layers=48,
    layer_ids=[[]],
    parameters=1,
    expert_parameters=1,
    trainable_parameters=1,
    compute_seconds=1.0,
    memory_bytes={"terms": {}, "peak_reserved": 60 * GIB},
)


@pytest.fixture(scope="module")
def run() -> Run:
    """A run whose plan says 60 GiB and 2 s a step of 16 packs."""
    run = make_run(ep=8)
    plan = replace(
        run.plan,
        stages=[STAGE],
        step_seconds={"total": 2.0},
        tokens_per_second_per_gpu=4096.0,
        confidence={"stages.memory_bytes.peak_reserved": {"relative_error_p90": 0.02}},
    )
    return replace(run, plan=plan)


def row(iteration: int, *, mean_seconds: float = 2.0, **changed: Any) -> str:
    """A line of ms-swift."""
    values = {
        "loss": 1.5,
        "grad_norm": 0.8,
        "learning_rate": 1e-5,
        "load_balancing_loss": 1.04,
        "iteration": f"{iteration}/40",
        "elapsed_time": "1m 2s",
        "remaining_time": "3m 4s",
        "memory(GiB)": 60.5,
        "train_speed(s/it)": mean_seconds,
    }
    return json.dumps(values | changed)


def progress(run: Run, rows: list[str]) -> Progress:
    return Progress(since_last_start(read_steps(rows)), run)


def said(run: Run, rows: list[str]) -> list[str]:
    return [reason.id for reason in strays(progress(run, rows))]


def test_a_run_like_its_plan_strays_nowhere(run: Run) -> None:
    assert said(run, [row(i) for i in range(1, 30)]) == []


# The log's speed is a mean: so that a last step takes 4 s after 28 of 2 s.
SLOW = [row(i, mean_seconds=(2 * min(i, 15) + 4 * max(0, i - 15)) / i) for i in range(1, 30)]
STRAYS: dict[str, tuple[list[str], str]] = {
    "loss is no number": ([row(1), row(2, loss=float("nan"))], "watch.not_finite"),
    "gradients overflow": ([row(1), row(2, grad_norm=float("inf"))], "watch.not_finite"),
    "more memory": ([row(1, **{"memory(GiB)": 62.5})], "watch.memory"),
    "slower steps": (SLOW, "watch.slow"),
    "routing collapses": ([row(1, load_balancing_loss=2.5)], "watch.routing"),
    "gradients jump": ([*map(row, range(1, 12)), row(12, grad_norm=9.0)], "watch.jump"),
    "loss jumps": ([*map(row, range(1, 12)), row(12, loss=2.4)], "watch.jump"),
}


@pytest.mark.parametrize("name", STRAYS)
def test_what_strays_is_said_with_what_helps(run: Run, name: str) -> None:
    rows, expected = STRAYS[name]
    (reason,) = strays(progress(run, rows))
    assert reason.id == expected
    assert reason.message and reason.fix


@pytest.mark.parametrize(
    "rows",
    [
        [row(1, **{"memory(GiB)": 62.3})],
        [row(1, load_balancing_loss=1.9)],
        [row(i, mean_seconds=2.9) for i in range(1, 30)],
        [row(1), row(2, grad_norm=9.0)],
    ],
    ids=["memory in its band", "load", "time in its band", "a jump before usual is known"],
)
def test_what_is_within_its_band_is_not_said(run: Run, rows: list[str]) -> None:
    assert said(run, rows) == []


def test_the_time_of_a_step_is_read_off_means(run: Run) -> None:
    """The first step takes 30 s to compile, the others 2 s."""
    rows = [row(i, mean_seconds=(30 + 2 * (i - 1)) / i) for i in range(1, 20)]
    assert progress(run, rows).step_seconds == pytest.approx(2.0)
    assert progress(run, rows).tokens_per_second_per_gpu == pytest.approx(4096.0)


@pytest.mark.parametrize("every", [1, 5])
def test_a_start_that_goes_on_counts_its_own_steps(run: Run, every: int) -> None:
    """Means begin anew at a start; the steps before it are left out."""
    before = [row(1), *(row(i) for i in range(5, 25, 5))]
    after = [row(i, mean_seconds=3.0) for i in range(15 + every, 40, every)]
    assert progress(run, before + after).step_seconds == pytest.approx(3.0)
    assert progress(run, before + after).steps[0].iteration == 15 + every


@given(st.lists(st.text(max_size=20) | st.sampled_from([row(1), row(2)[:50], "{}", "[1]", "1"])))
def test_lines_of_anything_are_passed_over(lines: list[str]) -> None:
    for step in read_steps(lines):
        assert step.total == 40


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_values_of_anything_are_passed_over(value: Any) -> None:
    changed = dict.fromkeys(("loss", "grad_norm", "memory(GiB)", "train_speed(s/it)"), value)
    (step,) = read_steps([row(1, **changed)])
    assert step.loss is None or step.loss == value


# -- following -------------------------------------------------------------------------------------


def test_a_line_that_is_still_written_is_read_when_it_is_whole(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "logging.jsonl"
    watcher = Watcher(run, Log(path))
    assert not watcher.look(0.0)
    path.write_text(row(1)[:20])
    assert not watcher.look(0.0)
    path.write_text(f"{row(1)}\n{row(2)}\n")
    watcher = Watcher(run, Log(path))
    assert watcher.look(0.0)
    with path.open("a") as file:
        file.write(row(3)[:20])
    assert not watcher.look(0.0)
    with path.open("a") as file:
        file.write(f"{row(3)[20:]}\n")
    assert watcher.look(0.0)
    assert [step.iteration for step in watcher.steps] == [1, 2, 3]


@pytest.mark.parametrize(
    ("quiet", "last", "expected"),
    [(59, 9, []), (61, 9, ["watch.silent"]), (61, 40, [])],
    ids=["in time", "too long", "done"],
)
def test_silence_is_said_but_at_the_end(
    run: Run, tmp_path: Path, quiet: int, last: int, expected: list[str]
) -> None:
    """Ten steps of 2 s, and a minute at least."""
    path = tmp_path / "logging.jsonl"
    path.write_text("".join(f"{row(i)}\n" for i in range(1, last + 1)))
    watcher = Watcher(run, Log(path))
    watcher.look(1000.0)
    assert [reason.id for reason in watcher.reasons(1000.0 + quiet, 10)] == expected


def test_json_has_the_steps_and_the_plans_numbers(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "logging.jsonl"
    path.write_text(f"{row(1)}\n{row(2, loss=float('nan'))}\n")
    watcher = Watcher(run, Log(path))
    watcher.look(0.0)
    answer = json.loads(json.dumps(to_json(watcher), allow_nan=False))
    assert answer["step"]["loss"] is None
    assert answer["step"]["reserved_bytes"] == 60.5 * GIB
    assert answer["step"]["seconds"] == pytest.approx(2.0)
    assert answer["plan"] == {
        "reserved_bytes": 60 * GIB,
        "seconds": 2.0,
        "tokens_per_second_per_gpu": 4096.0,
    }
    assert answer["strays"][0]["id"] == "watch.not_finite"


@pytest.fixture
def following(run: Run, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """`moe-launch watch` of a run without a step."""
    write_run_folder(run, tmp_path / "run")
    (tmp_path / "run" / "output").mkdir()
    command = [sys.executable, "-uc", "from launch.cli import main; main()", "watch", "run"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_golden_watch(following: "subprocess.Popen[str]", run: Run, tmp_path: Path) -> None:
    """It waits for the first step, says each, what strays once, and ends with the last step."""
    assert following.stdout is not None
    shown = following.stdout.readline()
    with (tmp_path / "run" / "output" / "logging.jsonl").open("a") as log:
        log.write(f"{row(38)}\n")
        log.flush()
        shown += following.stdout.readline()
        log.write(f"{row(39, load_balancing_loss=3.0)}\n{row(40, load_balancing_loss=3.1)}\n")
    rest, err = following.communicate(timeout=60)
    assert (following.returncode, err) == (0, "")
    check_golden("cli/watch.txt", shown + rest)


@pytest.mark.parametrize("seen", [True, False])
def test_a_log_that_is_another_file_is_read_from_its_beginning(tmp_path: Path, seen: bool) -> None:
    """Who starts again from the beginning moves the output away."""
    path = tmp_path / "logging.jsonl"
    log = Log(path)
    path.write_text("a\nb\nhalf")
    assert log.new_lines() == ["a", "b"]
    path.rename(tmp_path / "moved")
    if seen:
        assert log.new_lines() == []
    path.write_text("c\nd\ne\nf\ng\nh\n")
    assert log.new_lines() == ["c", "d", "e", "f", "g", "h"]
    path.write_text("i\n")
    assert log.new_lines() == ["i"]


def test_a_loss_that_is_out_of_its_mind_has_a_short_line(run: Run) -> None:
    assert "loss 1e+300 " in step_line(progress(run, [row(1, loss=1e300)]))
