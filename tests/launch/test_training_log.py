"""Logs of ms-swift and Megatron-LM: what their lines say of steps, and that nothing breaks them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.training_log import intervals, read_steps, since_last_start

LOGS = Path(__file__).parent.parent / "inputs" / "logs"
GIB = 2**30

MEGATRON = (
    " [2026-11-24 12:00:{second:02}.123456] iteration {step:8d}/     100 | consumed samples: "
    "        1024 | elapsed time per iteration (ms): {ms:.1f} | throughput per GPU (TFLOP/s/GPU): "
    "239.8 | learning rate: 8.600000E-06 | global batch size:   128 | lm loss: 1.825991E+00 | "
    "loss scale: 1.0 | grad norm: 1.426 | number of skipped iterations:   0 | number of nan "
    "iterations:   0 |"
)
SWIFT_3 = {
    "loss": 1.2,
    "grad_norm": 0.5,
    "learning_rate": 1e-05,
    "elapsed_time_per_iteration": 2.5,
    "memory(GiB)": 60.5,
    "elapsed_time": "25s",
    "remaining_time": "4m 5s",
    "loss_scale": 1.0,
    "consumed_samples": 160,
    "global_step/max_steps": "10/100",
}


def test_a_log_of_ms_swift_4() -> None:
    """A real run of 50 steps: the first takes 55 s, the others 1.6 to 5."""
    steps = list(read_steps((LOGS / "swift-4.6.jsonl").read_text().splitlines()))
    seconds = [each.seconds for each in intervals(steps)]
    assert [step.iteration for step in steps] == list(range(1, 51))
    assert steps[0].mean_seconds == pytest.approx(54.939231)
    assert steps[-1].memory_bytes == pytest.approx(24.79 * GIB)
    assert len(seconds) == 49 and min(seconds) > 1.6 and max(seconds) < 5


def test_what_ms_swift_4_prints_says_the_same_as_its_file() -> None:
    """Progress bars are written over in the same lines."""
    text = (LOGS / "swift-4.6-printed.txt").read_text()
    steps = list(read_steps(text.splitlines()))
    assert [step.iteration for step in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[1].loss == pytest.approx(12.13620758)
    assert steps[1].memory_bytes == pytest.approx(30.81 * GIB)


def test_a_log_of_ms_swift_3() -> None:
    rows = [json.dumps(SWIFT_3 | {"global_step/max_steps": f"{n}/100"}) for n in (1, 10, 20)]
    steps = list(read_steps(rows))
    assert [(step.iteration, step.total) for step in steps] == [(1, 100), (10, 100), (20, 100)]
    assert [(each.first, each.last, each.seconds) for each in intervals(steps)] == [
        (2, 10, 2.5),
        (11, 20, 2.5),
    ]
    assert not any(each.with_saving for each in intervals(steps))


def test_lines_of_megatron() -> None:
    lines = [MEGATRON.format(second=n, step=n, ms=5000 + n) for n in (1, 2, 3)]
    lines.insert(1, "(min, max) time across ranks (ms):")
    steps = list(read_steps(lines))
    assert [step.iteration for step in steps] == [1, 2, 3]
    assert steps[2].own_seconds == pytest.approx(5.003)
    assert steps[2].loss == pytest.approx(1.825991) and steps[2].grad_norm == pytest.approx(1.426)


def test_a_restart_begins_anew() -> None:
    rows = [json.dumps(SWIFT_3 | {"global_step/max_steps": f"{n}/9"}) for n in (1, 2, 3, 2, 3)]
    assert [step.iteration for step in since_last_start(read_steps(rows))] == [2, 3]


REAL = [
    *(LOGS / "swift-4.6.jsonl").read_text().splitlines()[:3],
    *(LOGS / "swift-4.6-printed.txt").read_text().splitlines()[:2],
    json.dumps(SWIFT_3),
    MEGATRON.format(second=1, step=1, ms=1.5),
]
PIECES = ["1e999", "NaN", "[" * 200, "{'iteration': '1/2'}", "9" * 400]
spoiled = st.tuples(
    st.sampled_from(REAL),
    st.integers(0, 400),
    st.text(max_size=8) | st.sampled_from(PIECES),
).map(lambda all_: all_[0][: all_[1]] + all_[2] + all_[0][all_[1] + len(all_[2]) // 2 :])


@given(st.lists(st.sampled_from(REAL) | spoiled | st.text(max_size=40), max_size=8))
def test_any_text_is_read(lines: list[str]) -> None:
    steps = list(read_steps(lines))
    assert len(steps) <= len(lines)
    assert all(0 < each.seconds < float("inf") for each in intervals(since_last_start(steps)))
