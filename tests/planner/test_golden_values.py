"""What the planner predicts of Megatron-LM's published runs."""

from collections import Counter
from typing import Any

import golden
import golden_filter
import golden_runs as runs

TESTS = runs.tests()
ROWS = runs.covered_rows(TESTS)


def test_the_page_is_up_to_date() -> None:
    """`python benchmarks/memory/golden.py` writes it."""
    assert golden.PAGE.read_text(encoding="utf-8") == golden.page(TESTS, ROWS)


def test_the_filter_says_something_of_every_flag() -> None:
    flags = {flag for test in TESTS for flag in test.flags}

    assert flags - golden_filter.known_flags() == set()


def test_the_filter_says_one_thing_of_a_flag() -> None:
    lists: list[list[Any]] = [
        [name for line in golden_filter.FILTER["used"] for name in line],
        *golden_filter.flags_that_do_not_matter().values(),
        *(list(entry["flags"]) for entry in golden_filter.FILTER["uncovered"]),
    ]
    counts = Counter(name for names in lists for name in names)

    assert [name for name, number in counts.items() if number > 1] == []


def test_every_value_is_covered_or_counted_by_its_reason() -> None:
    values = sum(len(test.values) for test in TESTS)

    assert len(ROWS) + golden.reasons(TESTS).total() == values == 528
    assert len({row.value.id for row in ROWS}) == len(ROWS)


def test_a_run_is_covered_until_a_flag_says_otherwise() -> None:
    (covered,) = (
        test for test in TESTS if test.name == "mixtral/mixtral_8x22b_tp2pp8ep8vpp1_release"
    )

    assert golden_filter.uncovered_because(covered.flags) is None
    for change, reason in (
        ({"attention_backend": "unfused"}, "unfused attention"),
        ({"bf16": None}, "fp32"),
        ({"sequence_parallel": None}, "without sequence parallelism"),
        ({"moe_token_dispatcher_type": "allgather"}, "allgather"),
    ):
        assert reason in str(golden_filter.uncovered_because({**covered.flags, **change}))


def test_every_error_above_a_tenth_is_explained() -> None:
    unexplained = [
        (row.value.id, round(row.error, 3))
        for row in ROWS
        if abs(row.error) > golden.ASK_ABOVE and not golden.explanation_of(row)
    ]

    assert unexplained == []
