"""What `plan calibrate` prints: logs beside predictions, factors, and the new topology file."""

import textwrap
from collections.abc import Iterator
from typing import Any

from planner.dialects import words
from planner.plan import layout_from_json
from planner.report.numbers import gib, seconds
from planner.swift_args import ArgValue
from planner.units import GIB

NAME_WIDTH = 11
SIGNIFICANT_SECONDS = 0.0005  # less is no line
WHEN = {
    "saving": "while it saved a checkpoint",
    "loading": "while it loaded weights",
    "resuming": "while it read a checkpoint",
    "evaluating": "in an evaluation",
    "backward": "in the backward pass",
    "optimizer": "in the optimizer step",
    "loss": "in the cross entropy",
    "forward": "in the forward pass",
    "building": "while it built the model and the optimizer",
    "unknown": "at a moment that the traceback does not tell",
}
CHANGES = {
    "recompute": "recompute more",
    "micro_batch_size": "halve the micro-batch",
    "layout": "another layout",
    "offload": "the optimizer's states on the host",
}


def calibration_text(content: dict[str, Any], next_step: str | None, width: int) -> str:
    """A screen of the answer of `plan calibrate`; `next_step` reads the new file."""
    pairs: list[tuple[str, str]] = []
    for log in content["logs"]:
        pairs += [*_log(log), ("", "")]
    pairs += [*_factors(content["factors"])]
    pairs += _named("Not told", [reason["message"] for reason in content["untold"]])
    text = "".join(_folded(name, line, width) for name, line in pairs)
    if content["overlay"] is not None:
        written = content["output"]
        text += _folded("Topology", f"written to {written}" if written else "as a file:", width)
        text += "".join(f"  {line}\n" for line in content["overlay"].splitlines())
    return text + _folded("Next", next_step or _next(content), width)


def _next(content: dict[str, Any]) -> str:
    errors = [log["out_of_memory"] for log in content["logs"] if log["out_of_memory"]]
    commands = [error["rung"]["command"] for error in errors if error["rung"]]
    if commands and commands[0]:
        return str(commands[0])
    if any(error["ways"] for error in errors):
        return "start again, with the first of the ways out"
    if content["overlay"] is not None:
        return "plan calibrate ... --output mine.yaml, then plan --topology mine.yaml"
    return "plan with more GPUs, or shorter packs (--seq-length)"


def _log(log: dict[str, Any]) -> Iterator[tuple[str, str]]:
    layout = layout_from_json(log["layout"])
    sizes = " ".join(f"{name}{getattr(layout, name)}" for name in ("tp", "pp", "cp", "ep", "etp"))
    yield "Log", f"{log['log']}   {log['model']} on {layout.world_size} GPUs"
    yield "", f"{sizes} mbs{layout.micro_batch_size} recompute {layout.recompute}"
    yield "Run", log["run"]
    if log["measured"] is not None:
        yield from _measured(log)
    if log["out_of_memory"] is not None:
        yield from _out_of_memory(log["out_of_memory"])


def _measured(log: dict[str, Any]) -> Iterator[tuple[str, str]]:
    seen, predicted = log["measured"], log["predicted"]
    yield from _named("Dropped", [reason["message"] for reason in seen["dropped"]])
    total, step = predicted["step_seconds"]["total"], seen["step_seconds"]
    yield (
        "Step",
        f"predicted {seconds(total)} s, measured {seconds(step)} s ({total / step - 1:+.1%}): the "
        f"median of {seen['counted']}, a tenth below {seconds(seen['low_seconds'])} and a tenth "
        f"above {seconds(seen['high_seconds'])}",
    )
    yield "", f"{'':<26}{'predicted':>10}{'fitted':>10}"
    for name, value in predicted["step_seconds"].items():
        if max(value, log["fitted"][name]) > SIGNIFICANT_SECONDS:
            title = name.replace("exposed_", "").replace("_", " ")
            yield "", f"{title:<26}{seconds(value):>10}{seconds(log['fitted'][name]):>10}"
    yield "", f"{'not explained':<36}{log['fitted']['unexplained']:>+10.3f}"
    if seen["saving_seconds"] is not None:
        each = seen["saving_seconds_per_step"]
        yield "Saving", f"{seconds(seen['saving_seconds'])} s a save, {seconds(each)} s a step"
    if seen["data_seconds"] is not None:
        yield "Data", f"{seconds(seen['data_seconds'])} s a step to get it, on the slowest rank"
    if seen["reserved_bytes"] is not None:
        planned, used = predicted["reserved_bytes"], seen["reserved_bytes"]
        yield (
            "Memory",
            f"predicted {gib(planned)} GiB reserved on the rank that is logged, seen {gib(used)} "
            f"({planned / used - 1:+.1%})",
        )


def _out_of_memory(error: dict[str, Any]) -> Iterator[tuple[str, str]]:
    where = f"rank {error['rank']}" if error["rank"] is not None else "a rank"
    if error["stage"] is not None:
        where += f", stage {error['stage']}"
    again = ", computing a layer again" if error["recomputing"] else ""
    yield "No memory", f"{where}, {WHEN[error['when']]}{again}"
    yield from _named("", [f"in {frame}" for frame in error["frames"][-1:]])
    sizes = {
        "asked for": "tried_bytes",
        "free": "free_bytes",
        "of": "capacity_bytes",
        "allocated": "allocated_bytes",
        "reserved in pieces": "unallocated_bytes",
    }
    told = [f"{name} {_size(error[key])}" for name, key in sizes.items() if error[key] is not None]
    if told:
        yield "", ", ".join(told)
    if error["needed_bytes"] is not None:
        yield (
            "",
            f"needed {gib(error['needed_bytes'])} GiB or more, predicted for this moment "
            f"{gib(error['predicted_bytes'])}: {_missing(error)}",
        )
    if error["fragmented"]:
        yield (
            "Fragments",
            "what is reserved in pieces would be enough: set "
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True first, if it is not",
        )
    yield from _named("Way out", [way["message"] for way in error["ways"]])
    yield from _rung(error)


def _missing(error: dict[str, Any]) -> str:
    """What was missing, and of it what others had."""
    text = f"{gib(error['missing_bytes'])} GiB more"
    if error["others_bytes"]:
        text += f", and {gib(error['others_bytes'])} that others held"
    return text


def _rung(error: dict[str, Any]) -> Iterator[tuple[str, str]]:
    rung = error["rung"]
    if rung is None:
        if not error["fits_alone"]:
            yield "Change", "no layout on these GPUs leaves so much free"
        return
    layout = layout_from_json(rung["layout"])
    yield (
        "Change",
        f"{CHANGES[rung['kind']]}: recompute {layout.recompute}, micro-batch "
        f"{layout.micro_batch_size}; {gib(rung['device_bytes'])} of {gib(error['usable_bytes'])} "
        f"GiB with what was missing, {seconds(error['step_seconds'])} -> "
        f"{seconds(rung['step_seconds'])} s a step",
    )
    yield from _named("Arguments", [_argument(*item) for item in rung["arguments"].items()])


def _argument(name: str, value: ArgValue | None) -> str:
    return f"without --{name}" if value is None else f"--{name} {' '.join(words(value))}"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.2f} GiB"


def _factors(factors: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """How many times as long as predicted everything takes."""
    lines = [
        f"{each['name']:<8} {each['before']:.2f} -> {each['after']:.2f}   ({each['low']:.2f} to "
        f"{each['high']:.2f}){'' if each['told'] else '   hardly told by the logs'}"
        for each in factors
    ]
    if lines:
        yield "Factors", "how many times as long as predicted without any"
        yield from _named("", lines)


def _named(name: str, texts: list[str]) -> list[tuple[str, str]]:
    return [("" if number else name, text) for number, text in enumerate(texts)]


def _folded(name: str, text: str, width: int) -> str:
    """Text under its name; what is in columns is left as it is where it fits."""
    room = max(20, width - NAME_WIDTH - 1)
    lines = [text] if len(text) <= room else textwrap.wrap(text, room, break_on_hyphens=False)
    return "".join(
        f"{name if not number else '':<{NAME_WIDTH}}{line}".rstrip() + "\n"
        for number, line in enumerate(lines or [""])
    )
