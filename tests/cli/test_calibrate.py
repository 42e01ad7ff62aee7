"""`plan calibrate`: logs of runs beside their plans, factors for a topology, lack of memory."""

import json
import math
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from calibrated import ERROR, GIB, LOGS, run_of, swift_row, write_log, write_run
from console import Ran, plan
from golden_files import check_golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from problems import problem

import planner
from launch.training_log import read_steps
from measure.calibrate.fit import Observed, fit
from measure.calibrate.out_of_memory import Trace
from measure.calibrate.prediction import step_time
from measure.calibrate.warm_steps import measured
from planner.cluster import AS_PREDICTED, Calibration
from planner.evaluate import Evaluator
from planner.layout import Layout
from planner.memory import CUDA_CONTEXT_BYTES
from planner.problem import Problem
from planner.run import Run
from planner.search import search
from planner.workload import Load

SCHEMA = json.loads((Path(planner.__file__).parent / "data" / "calibrate.schema.json").read_text())
# What the hosts of the tests take as long as so many times the prediction.
HOSTS = Calibration(gemm=1.15, launch=1.4, nvlink=1.3, network=1.5)


@pytest.fixture(scope="module")
def asked() -> Problem:
    return problem(gpus=16, routing_imbalance=1.2)


@pytest.fixture(scope="module")
def layouts(asked: Problem) -> list[Layout]:
    """Ranked layouts that use the links differently."""
    return [candidate.layout(asked) for candidate in search(Evaluator(asked)).ranked[:40:13]]


@pytest.fixture(scope="module")
def runs(asked: Problem, layouts: list[Layout]) -> list[Run]:
    return [run_of(asked, layout) for layout in layouts]


def logs_of(folder: Path, asked: Problem, runs: list[Run], calibration: Calibration) -> list[Path]:
    return [
        write_log(write_run(folder / str(number), run), run, asked, calibration)
        for number, run in enumerate(runs)
    ]


def answer_of(ran: Ran) -> Any:
    """The answer by its schema."""
    assert (ran.status, ran.err) == (0, "")
    errors = [error.message for error in Draft202012Validator(SCHEMA).iter_errors(ran.answer)]
    assert errors == []
    return ran.answer


def test_the_prediction_moves_to_what_was_measured(
    tmp_path: Path, asked: Problem, runs: list[Run]
) -> None:
    """With the file that it writes, each layout is predicted within 2 % of its log."""
    logs, mine = logs_of(tmp_path, asked, runs, HOSTS), tmp_path / "mine.yaml"
    answer = answer_of(plan("calibrate", *logs, "--output", mine, "--json"))
    assert mine.read_text() == answer["overlay"]
    for run, log in zip(runs, answer["logs"], strict=True):
        true = step_time(asked, run.plan.layout, HOSTS).total
        assert log["measured"]["step_seconds"] == pytest.approx(true, rel=1e-4)
        assert log["predicted"]["step_seconds"]["total"] < 0.95 * true
        assert log["fitted"]["total"] == pytest.approx(true, rel=0.02)
    layout = runs[0].plan.layout
    words = ["--gpus", 16, "--model", "Qwen3-30B-A3B", "--recompute", "full", "--top", 1000]
    for topology in ("h100-8x-ib", mine):
        ran = plan(*words, "--topology", topology, "--json").answer
        assert (ran["inputs"]["cluster"]["calibration"]["launch"] > 1.2) == (topology == mine)
    assert layout.world_size == 16


def test_a_calibrated_topology_is_calibrated_further(
    tmp_path: Path, asked: Problem, runs: list[Run]
) -> None:
    """On the file of a first calibration the same logs are predicted as they were measured."""
    logs, first = logs_of(tmp_path, asked, runs, HOSTS), tmp_path / "first.yaml"
    assert plan("calibrate", *logs, "--output", first).status == 0
    second = tmp_path / "deeper" / "second.yaml"
    second.parent.mkdir()
    answer = answer_of(plan("calibrate", *logs, "--topology", first, "--output", second, "--json"))
    assert yaml.safe_load(second.read_text())["like"] == "../first.yaml"
    for log in answer["logs"]:
        seconds = log["measured"]["step_seconds"]
        assert log["predicted"]["step_seconds"]["total"] == pytest.approx(seconds, rel=0.02)
        assert log["fitted"]["total"] == pytest.approx(seconds, rel=0.02)
    checked = plan("topology", "check", second, "--json").answer["topology"]["calibration"]
    told = {each["name"]: each["after"] for each in answer["factors"] if each["told"]}
    assert told
    for name, after in told.items():
        assert checked[name] == pytest.approx(after, rel=1e-3)


def test_logs_of_more_layouts_tell_more_factors(
    tmp_path: Path, asked: Problem, runs: list[Run]
) -> None:
    logs = logs_of(tmp_path, asked, runs, HOSTS)
    one, all_ = (answer_of(plan("calibrate", *some, "--json")) for some in (logs[:1], logs))
    spread = [
        {each["name"]: each["high"] / each["low"] for each in answer["factors"]}
        for answer in (one, all_)
    ]
    assert all(spread[1][name] <= spread[0][name] * 1.001 for name in spread[0])
    assert sum(spread[1].values()) < sum(spread[0].values()) or len(spread[1]) > len(spread[0])
    assert "calibrate.one_layout" in {reason["id"] for reason in one["untold"]}
    assert "calibrate.one_layout" not in {reason["id"] for reason in all_["untold"]}


def predicted_seconds(asked: Problem, layout: Layout, calibration: Calibration) -> float:
    return step_time(asked, layout, calibration).total


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.floats(0.7, 1.5), st.floats(0.7, 1.5))
def test_a_fit_never_makes_predictions_worse(
    asked: Problem, layouts: list[Layout], gemm: float, nvlink: float
) -> None:
    """Of all logs together: one that was right because two factors made up for each other may get
    worse. And factors stay within their bounds."""
    true = Calibration(gemm=gemm, nvlink=nvlink)
    observed = [
        Observed(
            predict=partial(predicted_seconds, asked, each),
            seconds=predicted_seconds(asked, each, true),
            relative_noise=0.0,
        )
        for each in layouts[:2]
    ]
    found = fit(observed, AS_PREDICTED)
    before, after = (
        sum(math.log(each.predict(calibration) / each.seconds) ** 2 for each in observed)
        for calibration in (AS_PREDICTED, found.calibration)
    )
    assert after <= before + 0.005**2
    assert all(0.25 <= factor.after <= 4 for factor in found.factors)


def test_steps_that_are_not_warm_are_dropped_with_a_reason(asked: Problem, runs: list[Run]) -> None:
    """What a save costs is read off the step after it."""
    rows, elapsed = [], 0.0
    for step in range(1, 31):
        elapsed += {1: 60.0, 2: 9.0, 3: 5.0}.get(step, 2.0)
        rows.append(swift_row(step, elapsed))
        elapsed += 40.0 if step % 10 == 0 else 0.0
    found = measured(list(read_steps(rows)), save_steps=10, path="log")
    assert found.step_seconds == pytest.approx(2.0, abs=1e-4)
    assert found.counted == 25
    assert found.saving_seconds == pytest.approx(40.0, abs=1e-3)
    assert [reason.id for reason in found.dropped] == ["calibrate.cold", "calibrate.after_save"]
    assert found.dropped[0].values == {"first": 1, "last": 3}


def test_waiting_for_data_is_told_by_megatrons_timers(
    tmp_path: Path, asked: Problem, runs: list[Run]
) -> None:
    """As megatron-core 0.16.1 prints them."""
    output = write_run(tmp_path, runs[0])
    line = (
        " [2026-11-24 12:00:00] iteration {step:8d}/     100 | consumed samples:         1024 | "
        "elapsed time per iteration (ms): {ms:.1f} | learning rate: 8.6E-06 |\n"
        "(min, max) time across ranks (ms):\n"
        "    forward-backward ...............................: (1137.65, 1138.60)\n"
        "    batch-generator ................................: (10.50, 212.57)\n"
    )
    log = output / "train.log"
    log.write_text("".join(line.format(step=n, ms=2500) for n in range(1, 12)))
    answer = answer_of(plan("calibrate", log, "--json"))
    seen, fitted = answer["logs"][0]["measured"], answer["logs"][0]["fitted"]
    assert seen["data_seconds"] == pytest.approx(0.21257)
    assert seen["step_seconds"] == 2.5
    assert fitted["total"] + fitted["unexplained"] == pytest.approx(2.5 - 0.21257)
    assert "calibrate.untold_data" not in {reason["id"] for reason in answer["untold"]}


MOMENTS = ("forward", "backward", "recompute", "loss", "optimizer", "saving", "loading", "building")


@pytest.mark.parametrize("moment", MOMENTS)
def test_real_tracebacks_tell_when_memory_ran_out(moment: str) -> None:
    """Frames of the real stack on CPU, in which the error was raised on purpose."""
    trace = Trace()
    for line in (LOGS / f"oom-{moment}.txt").read_text().splitlines():
        trace.look(line)
    assert trace.found is not None
    assert (trace.found.rank, trace.found.gpu) == (1, 1)
    assert trace.found.when == ("backward" if moment == "recompute" else moment)
    assert trace.found.recomputing == (moment == "recompute")
    assert trace.found.needed_bytes == pytest.approx((79.11 - 1.61 + 2.32) * GIB)
    assert trace.found.unallocated_bytes == pytest.approx(3.49 * GIB)


def test_the_sentence_of_torch_before_2_1() -> None:
    trace = Trace()
    trace.look(
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.12 GiB (GPU 5; "
        "23.70 GiB total capacity; 22.00 GiB already allocated; 292.56 MiB free; 22.29 GiB "
        "reserved in total by PyTorch) If reserved memory is >> allocated memory"
    )
    assert trace.found is not None
    assert trace.found.capacity_bytes == pytest.approx(23.70 * GIB)
    assert trace.found.free_bytes == pytest.approx(292.56 * 2**20)
    assert trace.found.unallocated_bytes == pytest.approx(0.29 * GIB)
    assert (trace.found.rank, trace.found.gpu, trace.found.when) == (None, 5, "unknown")


def test_the_next_rung_needs_less_than_what_did_not_fit(tmp_path: Path, asked: Problem) -> None:
    """Rank 9 of 16 is on the second of two stages."""
    ranked = (each.layout(asked) for each in search(Evaluator(asked)).ranked)
    run = run_of(asked, next(layout for layout in ranked if layout.pp == 2))
    log = write_run(tmp_path, run) / "train.log"
    log.write_text(ERROR.format(pieces="512.00 MiB") + "\n")
    answer = answer_of(plan("calibrate", log, "--json"))
    error = answer["logs"][0]["out_of_memory"]
    rung = error["rung"]
    assert (error["rank"], error["stage"], error["fragmented"]) == (9, 1, False)
    assert error["missing_bytes"] == pytest.approx(
        max(0.0, error["needed_bytes"] - error["predicted_bytes"])
    )
    assert rung["device_bytes"] <= error["usable_bytes"]
    assert rung["device_bytes"] < error["predicted_bytes"] + error["missing_bytes"]
    assert rung["arguments"]


def test_the_command_of_a_rung_checks_its_layout(tmp_path: Path, runs: list[Run]) -> None:
    log = write_run(tmp_path, runs[0]) / "train.log"
    log.write_text(ERROR.format(pieces="512.00 MiB") + "\n")
    rung = answer_of(plan("calibrate", log, "--json"))["logs"][0]["out_of_memory"]["rung"]
    checked = plan(*shlex.split(rung["command"])[1:], "--json").answer["plan"]
    assert checked["layout"] == rung["layout"]


def test_pieces_that_would_do_are_said(tmp_path: Path, runs: list[Run]) -> None:
    log = write_run(tmp_path, runs[0]) / "train.log"
    log.write_text(ERROR.format(pieces="3.49 GiB") + "\n")
    ran = plan("calibrate", log)
    assert ran.status == 0 and "expandable_segments:True first" in ran.out


@pytest.mark.parametrize("width", [80, 100])
def test_golden_a_calibration(
    tmp_path: Path, asked: Problem, runs: list[Run], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, run in enumerate(runs[:2]):
        write_log(write_run(Path(f"run{number}"), run), run, asked, HOSTS, steps=210)
    logs = [f"run{number}/output/logging.jsonl" for number in (0, 1)]
    ran = plan("calibrate", *logs, columns=width)
    check_golden(f"cli/calibrate-{width}.txt", ran.out)


def test_golden_memory_that_ran_out(
    tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), runs[0])
    text = (LOGS / "oom-backward.txt").read_text()
    Path("run/output/train.log").write_text(text)
    ran = plan("calibrate", "run/output/train.log")
    check_golden("cli/calibrate-oom-100.txt", ran.out)


def test_golden_memory_that_ran_out_while_loading(
    tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loading rank needs a tenth of a training one: most of the memory was others'."""
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), runs[0])
    text = (LOGS / "oom-loading.txt").read_text().replace("70.15 GiB is alloc", "4.15 GiB is alloc")
    Path("run/output/train.log").write_text(text)
    ran = plan("calibrate", "run/output/train.log")
    check_golden("cli/calibrate-oom-loading-100.txt", ran.out)


CONTEXT_AND_MOMENT = {"loading": "loading", "building": "after_build", "resuming": "resuming"}


@pytest.mark.parametrize("moment", CONTEXT_AND_MOMENT)
def test_what_ran_out_before_the_first_step_is_held_against_that_moment(
    moment: str, tmp_path: Path, runs: list[Run]
) -> None:
    """And not against a training step, whose recomputation would not help."""
    text = (LOGS / f"oom-{'loading' if moment == 'resuming' else moment}.txt").read_text()
    text = text.replace("in load_weights", "in load_mcore_checkpoint") if "res" in moment else text
    log = write_run(tmp_path, runs[0]) / "train.log"
    log.write_text(text)
    error = answer_of(plan("calibrate", log, "--json"))["logs"][0]["out_of_memory"]
    memory = runs[0].plan.stages[0].memory_bytes
    expected = memory[CONTEXT_AND_MOMENT[moment]] + memory["nccl"] + CUDA_CONTEXT_BYTES

    assert error["when"] == moment
    assert error["predicted_bytes"] == pytest.approx(expected)
    assert error["predicted_bytes"] < memory["device_used"]
    assert error["missing_bytes"] == pytest.approx(error["needed_bytes"] - expected)
    assert error["rung"] is None or error["rung"]["kind"] in ("layout", "offload")
    ways = {"loading": ["calibrate.load_mcore"], "resuming": ["calibrate.resume_without"]}
    assert [way["id"] for way in error["ways"]] == ways.get(moment, [])


def test_what_others_held_is_not_missing_and_asks_for_no_other_layout(
    tmp_path: Path, runs: list[Run]
) -> None:
    log = write_run(tmp_path, runs[0]) / "train.log"
    text = (LOGS / "oom-backward.txt").read_text()
    log.write_text(text.replace("70.15 GiB is alloc", "30.15 GiB is alloc"))
    error = answer_of(plan("calibrate", log, "--json"))["logs"][0]["out_of_memory"]
    own = (30.15 + 3.49) * GIB + CUDA_CONTEXT_BYTES + runs[0].plan.stages[0].memory_bytes["nccl"]

    assert error["others_bytes"] == pytest.approx((79.11 - 1.61) * GIB - own)
    assert error["missing_bytes"] == 0
    assert error["rung"] is None
    assert [way["id"] for way in error["ways"]] == ["calibrate.others"]


def test_what_is_written_beside_a_checkpoint_may_be_left_out(
    tmp_path: Path, runs: list[Run]
) -> None:
    """Of a run that reads Hugging Face weights, and writes them."""
    for load, expected in ((Load.DIRECT, ["calibrate.save_mcore"]), (Load.MCORE, [])):
        log = write_run(tmp_path / load, replace(runs[0], load=load)) / "train.log"
        log.write_text((LOGS / "oom-saving.txt").read_text())
        error = answer_of(plan("calibrate", log, "--json"))["logs"][0]["out_of_memory"]
        device_used = runs[0].plan.stages[0].memory_bytes["device_used"]
        assert error["predicted_bytes"] == device_used  # stays reserved while it saves
        assert [way["id"] for way in error["ways"]] == expected
