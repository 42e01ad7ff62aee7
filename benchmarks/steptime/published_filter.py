"""Reads published_filter.yaml: which published runs are compared with the time model, and which of
them the bar is about."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Facts = Mapping[str, Any]
FOLDER = Path(__file__).parent
FILTER = yaml.safe_load((FOLDER / "published_filter.yaml").read_text(encoding="utf-8"))
_MODELS = {name: ours for ours, names in FILTER["models"].items() for name in names}


def published() -> list[Facts]:
    """All published runs, whatever they state."""
    text = (FOLDER / "published.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def planned_as(facts: Facts) -> str | None:
    """The planner's name of the model of a run; None: it has none."""
    return _MODELS.get(facts["model"])


def is_test(facts: Facts) -> bool:
    """Whether a run is a functional test of Megatron-LM, whose model is read from its flags."""
    return str(facts["model"]).startswith(tuple(FILTER["test_models"]))


def out_because(facts: Facts) -> str | None:
    """The first reason for which a run is not compared; None: it is."""
    reasons = (_of_another_kind, _unplanned_model, _unstated, _unplanned)
    return next(filter(None, (reason(facts) for reason in reasons)), None)


def is_refused(facts: Facts) -> bool:
    """Whether a run would be admitted, did the planner plan its model and its layout."""
    refusal = _unplanned_model(facts) or _unplanned(facts)
    return refusal is not None and not _of_another_kind(facts) and not _unstated(facts)


def _of_another_kind(facts: Facts) -> str | None:
    if facts["id"] in FILTER["rows_out"]:
        return str(FILTER["rows_out"][facts["id"]])
    if any(word in facts["framework"] for word in FILTER["other_frameworks"]):
        return "the framework is not Megatron-Core"
    if facts.get("billions", FILTER["smallest_billions"]) < FILTER["smallest_billions"]:
        return f"fewer than {FILTER['smallest_billions']} billion parameters"
    return None


def _unplanned_model(facts: Facts) -> str | None:
    for reason, names in FILTER["not_planned"].items():
        if str(facts["model"]).startswith(tuple(names)):
            return f"the planner does not plan the model: {reason}"
    return None


def _unstated(facts: Facts) -> str | None:
    if has_eight_bits(facts):
        return "8-bit formats, whose kernels are not timed"
    missing = _missing(facts)
    return f"not stated: {', '.join(missing)}" if missing else None


def _unplanned(facts: Facts) -> str | None:
    if facts.get("fsdp"):
        return "the planner does not plan the layout: fully sharded data parallelism"
    if planned_as(facts) is None and not is_test(facts):
        return "the planner does not plan the model: nobody named it"
    return None


def has_eight_bits(facts: Facts) -> bool:
    """Whether a run computes in fp8 or fp4."""
    return any(word in facts.get("precision", "") for word in FILTER["eight_bits"])


def _missing(facts: Facts) -> list[str]:
    names = list(FILTER["needs"])
    if facts.get("ep", 2) > 1:
        names += FILTER["needs_with_experts"]
    missing = [name for name in names if name not in facts]
    if not any(name in facts for name in FILTER["needs_one_of"]):
        missing.append("a time")
    return missing


def is_in_bar(facts: Facts) -> bool:
    """Whether the bar is about an admitted run: Hopper, with experts shared among GPUs."""
    return facts["gpu"] in FILTER["bar_gpus"] and facts.get("ep", 1) > 1


def job_of(facts: Facts) -> tuple[Any, ...]:
    """What the runs of a sweep have in common."""
    job = [facts.get(name) for name in FILTER["sweep"]["job"] if name != "model"]
    return (planned_as(facts) or facts["model"], *job)
