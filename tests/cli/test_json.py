"""The JSON of `plan` and `plan check`: its schema, its sums and its round trip."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console import EXAMPLE, Ran, plan
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from problems import MODELS, Case, cases

import planner
from planner.evaluate import Evaluator
from planner.model_files import resolve_model
from planner.plan import Plan
from planner.planning import make_plan
from planner.step_time import CATEGORIES

SCHEMA = json.loads((Path(planner.__file__).parent / "data" / "plan.schema.json").read_text())

SEARCHES: dict[str, tuple[str, ...]] = {
    "the example": EXAMPLE,
    "all plans": (*EXAMPLE, "--top", "1000", "--global-batch-size", "4"),
    "Qwen3-235B-A22B": ("--gpus", "64", "--model", "Qwen3-235B-A22B", "--global-batch-size", "64"),
    "DeepSeek-V3 with MTP": (
        *("--gpus", "256", "--model", "DeepSeek-V3", "--global-batch-size", "256"),
        *("--mtp-num-layers", "1", "--placement", "any"),
    ),
    "a dense model": ("--gpus", "8", "--model", "Qwen2.5-7B", "--topology", "a800-8x-ib"),
    "pairs of GPUs over PCIe": (
        *("--gpus", "16", "--model", "Qwen2.5-7B", "--topology", "h100-nvl-8x"),
        *("--placement", "any"),
    ),
    "hosts without NVLink": ("--gpus", "8", "--model", "Qwen2.5-7B", "--topology", "l40s-8x-pcie"),
    "more than a rack": (
        *("--gpus", "144", "--model", "Qwen3-30B-A3B", "--topology", "gb200-nvl72"),
        *("--global-batch-size", "144"),
    ),
    "LoRA on one GPU": ("--gpus", "1", "--model", "Qwen2.5-7B", "--tuner-type", "lora"),
    "LoRA": (*EXAMPLE, "--tuner-type", "lora", "--lora-rank", "64", "--recompute", "none"),
    "the fewest GPUs": ("--gpus", "8", "--model", "Qwen2.5-7B", "--fewest-gpus", "--pareto"),
    "the longest packs": (
        *("--gpus", "2", "--model", "Qwen2.5-7B", "--tuner-type", "lora", "--longest-sequence"),
    ),
    "an old stack": (*EXAMPLE, "--stack", "ms-swift-3.12", "--topology", "h20-8x-erdma"),
    "states on the host": (
        *("--gpus", "8", "--model", "Qwen3-30B-A3B", "--set", "optimizer_cpu_offload=true"),
        *("--set", "use_precision_aware_optimizer=true", "--task", "pt"),
    ),
    "named modules of LoRA": (
        *(*EXAMPLE, "--tuner-type", "lora", "--set", "target_modules=linear_qkv,linear_proj"),
    ),
    "imbalance and short documents": (
        *(*EXAMPLE, "--routing-imbalance", "1.5", "--mean-document-tokens", "700"),
        *("--micro-batch-size", "1", "--recompute", "full"),
    ),
}
CHECKS: dict[str, tuple[str, ...]] = {
    "legal": (*EXAMPLE, "--pp", "2", "--ep", "8"),
    "exceeds": (*EXAMPLE, "--recompute", "none"),
    "every size": (
        *(*EXAMPLE, "--tp", "2", "--pp", "2", "--vpp", "2", "--ep", "4", "--etp", "2"),
        *("--cp", "2", "--recompute-modules", "moe_act,layernorm", "--micro-batch-size", "2"),
    ),
    "against the placement": (*EXAMPLE, "--ep", "16"),
    "illegal but evaluated": (*EXAMPLE, "--pp", "2", "--seq-length", "8191", "--cp", "2"),
    "illegal": (*EXAMPLE, "--tp", "3", "--pp", "2"),
    "larger than the world": (*EXAMPLE, "--tp", "32", "--ep", "128", "--pp", "4"),
    "more chunks than layers": (*EXAMPLE, "--pp", "8", "--vpp", "8"),
    "a module that does not exist": (*EXAMPLE, "--recompute-modules", "core_atn"),
    "MTP layers that are not there": (*EXAMPLE, "--mtp-num-layers", "1"),
    "LoRA": (*EXAMPLE, "--tuner-type", "lora", "--tp", "2", "--ep", "8"),
    "settings of every kind": (
        *(*EXAMPLE, "--pp", "4", "--ep", "4", "--set", "report_to=tensorboard,wandb"),
        *("--set", "pipeline_model_parallel_layout=E,t*16|t*16|t*16|L", "--set", "lr=2e-5"),
        *("--set", "fp8_format=hybrid", "--set", "moe_expert_capacity_factor=1.25"),
    ),
    "what a GPU refuses": (*(*EXAMPLE, "--set", "fp8_format=hybrid", "--set", "fp8_recipe=mxfp8"),),
    "a named split that is none": (
        *(*EXAMPLE, "--pp", "8", "--set", "decoder_first_pipeline_num_layers=47"),
    ),
}
FAILURES: dict[str, tuple[str, ...]] = {
    "nothing fits": ("--gpus", "16", "--model", "Qwen3-235B-A22B"),
    "an unknown flag": (*EXAMPLE, "--gppus", "3"),
    "an unknown model": ("--gpus", "16", "--model", "Qwen3-30B-A4B"),
    "a number out of range": (*EXAMPLE, "--routing-imbalance", "nan"),
}


def errors(answer: object, part: str | None = None) -> list[str]:
    """What the schema, or one definition of it, says about an answer."""
    schema = SCHEMA if part is None else {"$ref": f"#/$defs/{part}", "$defs": SCHEMA["$defs"]}
    return [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(schema).iter_errors(answer)
    ]


def answer_of(ran: Ran, part: str) -> Any:
    """The answer of a command, held against its part of the schema and against the whole."""
    assert ran.err == ""
    assert errors(ran.answer, part) == []
    assert errors(ran.answer) == []
    return ran.answer


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("words", SEARCHES.values(), ids=SEARCHES)
def test_a_search_answers_by_the_schema(words: tuple[str, ...]) -> None:
    ran = plan(*words, "--json")
    assert ran.status == 0
    answer = answer_of(ran, "search_answer")
    search = answer["search"]
    rejected = sum(each["count"] for each in search["rejected_by_rule"].values())
    assert search["enumerated"] == search["legal"] + rejected
    assert search["legal"] >= search["fitting"] >= len(answer["plans"])
    layouts = [json.dumps(each["layout"]) for each in answer["plans"]]
    assert len(layouts) == len(set(layouts))


@pytest.mark.parametrize("words", CHECKS.values(), ids=CHECKS)
def test_a_check_answers_by_the_schema_and_ends_with_0(words: tuple[str, ...]) -> None:
    ran = plan("check", *words, "--json")
    assert ran.status == 0
    answer_of(ran, "check_answer")


@pytest.mark.parametrize("words", FAILURES.values(), ids=FAILURES)
def test_a_failure_is_one_object_by_the_schema(words: tuple[str, ...]) -> None:
    ran = plan(*words, "--json")
    assert ran.status in (2, 3)
    answer_of(ran, "error")


ONE_OF_EACH_TYPE = {resolve_model(name).model_type: name for name in MODELS}.values()


@pytest.mark.parametrize("name", ONE_OF_EACH_TYPE)
def test_a_model_of_every_type_is_planned(name: str) -> None:
    asked = ("--gpus", "256", "--model", name, "--json", "--top", "1", "--tuner-type", "lora")
    answer = answer_of(plan(*asked), "search_answer")

    assert answer["plans"][0]["verdict"] == "fits"


def test_the_verdict_is_missing_only_where_a_broken_rule_leaves_nothing_to_evaluate() -> None:
    verdicts = {}
    for name, words in CHECKS.items():
        found = plan("check", *words, "--json").answer["plan"]
        verdicts[name] = found["verdict"]
        assert found["verdict"] is not None or found["violations"]
    nothing = {name for name, verdict in verdicts.items() if verdict is None}
    assert nothing == {
        "illegal",
        "larger than the world",
        "more chunks than layers",
        "a named split that is none",
        "a module that does not exist",
    }
    assert verdicts["exceeds"] == "exceeds"


# -- what may be left out: nothing -----------------------------------------------------------------

# Objects whose keys are names of things: of terms, rules, flags, values of a message.
FREE = {
    "terms",
    "terms_at_imbalance",
    "hidden",
    "args",
    "values",
    "rejected_by_rule",
    "confidence",
    "sources",
}


def paths(value: object, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every key of every object below a value, but those that stand for things."""
    items: Iterator[tuple[str | int, object]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(list(enumerate(value))[:1])
    for key, below in items:
        if isinstance(key, str) and not FREE.intersection(above[-1:]):
            yield (*above, key)
        yield from paths(below, (*above, key))


def without(value: Any, path: tuple[str | int, ...], extra: bool) -> Any:
    """A copy without the key at a path, or with one more key beside it."""
    copy = json.loads(json.dumps(value))
    at = copy
    for key in path[:-1]:
        at = at[key]
    if extra:
        at["surprise"] = 1
    else:
        del at[path[-1]]
    return copy


@pytest.mark.parametrize(
    "words", [EXAMPLE, ("check", *EXAMPLE, "--ep", "16"), FAILURES["an unknown flag"]]
)
@pytest.mark.parametrize("extra", [False, True])
def test_the_schema_refuses_an_answer_that_lacks_a_key_or_has_another(
    words: tuple[str, ...], extra: bool
) -> None:
    answer = plan(*words, "--json", *([] if "check" in words else ["--top", "1"])).answer
    validator = Draft202012Validator(SCHEMA)
    found = list(paths(answer))
    assert len(found) > 5
    accepted = [path for path in found if validator.is_valid(without(answer, path, extra))]
    assert accepted == []


# -- sums ------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(cases())
def test_a_plan_adds_up_and_comes_back_from_its_json(case: Case) -> None:
    made = make_plan(Evaluator(case.problem), case.layout)
    text = json.dumps(made.to_json(), allow_nan=False)
    assert Plan.from_json(json.loads(text)) == made
    assert errors(json.loads(text), "plan") == []
    for stage in made.stages:
        memory = stage.memory_bytes
        assert sum(memory["terms"].values()) == memory["peak_allocated"]
        assert sum(memory["terms_at_imbalance"].values()) == memory["peak_allocated_at_imbalance"]
        assert memory["peak_allocated_at_imbalance"] == max(
            memory["peak_forward_backward_at_imbalance"], memory["peak_optimizer_step"]
        )
        assert memory["peak_allocated"] == max(
            memory["peak_forward_backward"], memory["peak_optimizer_step"]
        )
        rising = ("after_build", "steady", "peak_allocated", "peak_allocated_at_imbalance")
        values = [memory[name] for name in (*rising, "peak_reserved", "device_used")]
        assert values == sorted(values)
    seconds = made.step_seconds
    beside = ["hidden", "of_which", "slowest_stage", "elsewhere"]
    assert list(seconds) == [*CATEGORIES, "total", *beside]
    assert all(0 <= part <= seconds["total"] for part in seconds["of_which"].values())
    assert math.isclose(sum(seconds[name] for name in CATEGORIES), seconds["total"], rel_tol=1e-9)


@settings(max_examples=60)
@given(cases())
def test_a_plan_agrees_with_its_layout(case: Case) -> None:
    layout, workload = case.layout, case.problem.workload
    made = make_plan(Evaluator(case.problem), layout).to_json()
    sizes, stages = made["layout"], made["stages"]
    attention = ("tensor_model", "context", "data", "pipeline_model")
    experts = ("expert_tensor", "expert_model", "expert_data", "pipeline_model")
    for grid in (attention, experts):
        factors = [sizes[f"{name}_parallel_size"] for name in grid]
        assert math.prod(factors) == sizes["world_size"] == layout.world_size
    samples = sizes["num_microbatches"] * sizes["micro_batch_size"] * sizes["data_parallel_size"]
    assert samples == sizes["global_batch_size"] == workload.global_batch_size
    ids = [layer for stage in stages for chunk in stage["layer_ids"] for layer in chunk]
    assert sorted(ids) == list(range(case.problem.model.num_layers))
    of_a_stage = layout.world_size // layout.pp
    for number, stage in enumerate(stages):
        assert stage["stage"] == number == stage["worst_rank"] // of_a_stage
        assert len(stage["layer_ids"]) == sizes["virtual_pipeline_model_parallel_size"]
        assert stage["num_layers"] == sum(map(len, stage["layer_ids"]))
        assert stage["expert_parameters"] <= stage["parameters"] >= stage["trainable_parameters"]
    seconds = made["step_seconds"]["total"]
    tokens = workload.global_batch_size * workload.seq_length / layout.world_size
    assert math.isclose(made["tokens_per_second_per_gpu"], tokens / seconds)
    with_saving = seconds + made["saving"]["seconds_per_step"]
    assert math.isclose(made["saving"]["tokens_per_second_per_gpu"], tokens / with_saving)
    assert math.isclose(made["samples_per_second"], workload.global_batch_size / seconds)
    assert made["args"]["recompute_granularity"] == sizes["recompute_granularity"]


# -- confidence ------------------------------------------------------------------------------------

# What a stage and a plan say about themselves; all other numbers are predictions.
WHOLE = ("terms", "terms_at_imbalance", "hidden", "of_which", "elsewhere")
NOT_PREDICTED = {
    "slowest_stage",
    "stage",
    "worst_rank",
    "num_layers",
    "layer_ids",
    "peak_moment",
    "layer_moment",
    "peak_moment_at_imbalance",
    "layer_moment_at_imbalance",
    "usable",
    "interval_steps",
}


def predicted(value: object, path: str = "") -> Iterator[str]:
    """Dotted paths of all predicted numbers; those of `WHOLE` as a whole."""
    if isinstance(value, dict) and path.rpartition(".")[2] not in WHOLE:
        for key, below in value.items():
            if key not in NOT_PREDICTED:
                yield from predicted(below, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        yield from predicted(value[0], path)
    else:
        yield path


@pytest.mark.parametrize("name", ["legal", "illegal"])
def test_confidence_names_everything_that_is_predicted(name: str) -> None:
    """Null where nothing was measured, never left out; where there is nothing to evaluate too."""
    found = plan("check", *CHECKS["legal"], "--json").answer["plan"]
    top = ("stages", "host_memory_bytes", "step_seconds", "saving", "tokens_per_second_per_gpu")
    parts = {key: found[key] for key in (*top, "samples_per_second", "model_tflops_per_gpu")}
    confidence = plan("check", *CHECKS[name], "--json").answer["plan"]["confidence"]
    assert list(confidence) == list(dict.fromkeys(predicted(parts)))
    assert confidence["saving.seconds"] is None
    assert confidence["step_seconds.total"]["grade"] == "calibrated"
    assert confidence["stages.parameters"]["grade"] == "measured"
