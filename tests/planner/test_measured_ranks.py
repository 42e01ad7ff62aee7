"""Ranks that were chosen, predicted and measured, in that order."""

import json

import fresh
import pytest
from design_errors import first_look
from design_errors import fresh as predicted_now
from predict import results, rows


@pytest.mark.slow
def test_fresh_rows_are_those_that_their_seed_draws() -> None:
    assert fresh.PAGE.read_text("utf-8") == "".join(row.to_json() + "\n" for row in fresh.rows())


def test_no_fresh_row_is_one_of_the_design() -> None:
    known = {json.dumps([row.config, row.argv]) for row in rows("design.jsonl")}

    assert all(json.dumps([row.config, row.argv]) not in known for row in rows("fresh.jsonl"))


def test_every_fresh_row_was_measured_and_predicted_first() -> None:
    ids = {row.id for row in rows("fresh.jsonl")}

    assert results("fresh_h100.jsonl").keys() == results("first_look.jsonl").keys() == ids


def test_the_first_look_counts_whatever_the_model_says_now() -> None:
    """What is compared with measured bytes is the file's number, of each quantity."""
    for rank in first_look():
        assert rank.first is not None
        predicted = {name: size for name, (size, _) in rank.pairs.items()}
        assert {"id": rank.row.id} | predicted == rank.first


def test_parameters_of_fresh_ranks_are_exact() -> None:
    for rank in predicted_now():
        assert rank.parameters.total == rank.result["parameters"], rank.row.id


def test_allocated_peaks_of_fresh_ranks_stay_as_near_as_they_were_found() -> None:
    """0.5 % of room for terms that change; a term that gets worse on them is looked at again."""
    worse = [
        now.row.id
        for now, then in zip(predicted_now(), first_look(), strict=True)
        if abs(now.error("peak_allocated")) > abs(then.error("peak_allocated")) + 0.005
    ]

    assert worse == []
