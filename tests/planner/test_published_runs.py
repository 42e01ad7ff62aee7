"""What the planner predicts of the step times that others published."""

import published
import published_errors as errors
import published_filter as filters
import published_fit as fit
import published_runs as runs
import pytest

ROWS = filters.published()
BAR = runs.bar_runs()


def test_the_page_is_up_to_date() -> None:
    """`PYTHONPATH=.:benchmarks/memory python benchmarks/steptime/published.py` writes it."""
    assert published.PAGE.read_text(encoding="utf-8") == published.page()


def test_every_run_is_admitted_or_out_for_a_reason() -> None:
    assert len({row["id"] for row in ROWS}) == len(ROWS) == 1183
    assert len(runs.admitted_runs()) == sum(filters.out_because(row) is None for row in ROWS)
    assert all(filters.out_because(row) != "" for row in ROWS)


@pytest.mark.parametrize(
    "name", [*filters.FILTER["needs"], *filters.FILTER["needs_with_experts"], "step_seconds"]
)
def test_a_run_is_admitted_until_a_fact_is_missing(name: str) -> None:
    stated = next(run.facts for run in BAR if "step_seconds" in run.facts)
    measures = set(filters.FILTER["needs_one_of"]) if name == "step_seconds" else {name}
    cut = {key: value for key, value in stated.items() if key not in measures}

    assert filters.out_because(stated) is None
    assert "not stated" in str(filters.out_because(cut))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"precision": "fp8_mx"}, "8-bit"),
        ({"framework": "torchtitan"}, "not Megatron-Core"),
        ({"fsdp": True}, "fully sharded"),
        ({"model": "nemotron: L52"}, "no attention"),
        ({"model": "a new model"}, "nobody named it"),
        ({"billions": 0.4}, "fewer than 1 billion"),
    ],
)
def test_a_run_that_the_planner_does_not_plan_is_out(
    change: dict[str, object], reason: str
) -> None:
    assert reason in str(filters.out_because({**BAR[0].facts, **change}))


def test_what_was_looked_up_is_there_and_says_where_it_was_found() -> None:
    looked_up = [row for row in ROWS if "looked_up" in row]

    assert looked_up
    for row in looked_up:
        facts = set(row["looked_up"]["facts"])
        assert facts <= row.keys() | {"overlap"}, row["id"]  # no overlap is a fact too
        assert "@" in row["looked_up"]["source"] or "ms-swift" in row["looked_up"]["source"]


def test_the_bar_is_about_shared_experts_on_hopper_in_bf16() -> None:
    for run in BAR:
        assert run.get("ep") > 1
        assert run.facts["gpu"] in ("H100-80GB", "H800", "H200")
        assert run.facts["precision"] == "bf16"


def test_seconds_follow_from_tokens_and_from_flops_where_they_are_not_printed() -> None:
    run = next(run for run in BAR if run.id == "MX0277")
    tokens = {
        **run.facts,
        "tokens_per_second_per_gpu": run.problem.workload.step_tokens
        / run.measured_seconds
        / run.facts["num_gpus"],
    }
    flops = dict(run.facts)
    del tokens["step_seconds"], flops["step_seconds"]

    assert runs.Run(tokens).measured_seconds == pytest.approx(run.measured_seconds)
    # the planner counts the FLOPs of a step as the source does, within a hundredth
    assert runs.Run(flops).measured_seconds == pytest.approx(run.measured_seconds, rel=0.01)


def _row(name: str, measured: float, predicted: float, **facts: object) -> errors.Row:
    values = dict.fromkeys(("modelled", "fitted", "constant", "own_constant"), predicted)
    run = runs.Run({"id": name, **facts})
    return errors.Row(run=run, measured=measured, held_out=predicted, **values)


def test_tau_counts_pairs_in_order_and_leaves_out_those_that_differ_in_nothing() -> None:
    ordered = [_row(str(each), each, 2.0 * each, pp=each) for each in (1, 2, 3)]
    swapped = [ordered[0], _row("4", 3.0, 4.0, pp=4), _row("5", 2.0, 6.0, pp=5)]

    assert errors.Sweep(rows=ordered).tau == 1
    assert errors.Sweep(rows=swapped).tau == pytest.approx(1 / 3)
    assert errors.Sweep(rows=[*ordered, _row("6", 9.0, 2.0, pp=1)]).tau == pytest.approx(1 / 5)


def test_no_prediction_can_order_runs_of_one_configuration() -> None:
    twice = [_row("1", 1.0, 1.0, pp=1), _row("2", 3.0, 1.0, pp=1), _row("3", 2.0, 2.0, pp=2)]

    assert errors.Sweep(rows=twice).best_tau == 0
    assert errors.Sweep(rows=twice[1:]).best_tau == 1


def test_the_top_choice_is_the_slowest_of_those_that_are_predicted_alike() -> None:
    rows = [_row("1", 1.0, 5.0, pp=1), _row("2", 1.2, 5.0, pp=2), _row("3", 9.0, 6.0, pp=3)]

    assert errors.Sweep(rows=rows).top_choice == pytest.approx(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all", *sorted({run.model.name for run in BAR})])
def test_no_step_of_a_factor_makes_a_fit_better(name: str) -> None:
    """Nor is a model's own run among those that its factors were fitted to."""
    found = fit.fitted()[name]
    fitted_to = BAR if name == "all" else fit.without(BAR, name)
    search = fit.Fit(fitted_to)

    assert all(run.model.name != name for run in fitted_to)
    assert all(
        search.error(near, fitted_to) >= search.error(found, fitted_to)
        for near in search.around(found, fit.STEPS[-1])
    )
