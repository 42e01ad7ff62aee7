"""Layouts of two GPUs whose steps are to be measured: the committed list, and how it is judged."""

import two_gpus_report
import two_gpus_run
from hypothesis import given
from hypothesis import strategies as st
from two_gpus import GLOBAL_BATCH_SIZE, MODELS, SEQ_LENGTH, Entry, listed, problem_of
from two_gpus_report import Compared, first_choice, least_difference, noise, order, page

from planner.constraints import violations
from planner.problem import Sizes


def test_the_page_is_current() -> None:
    """`python benchmarks/steptime/two_gpus_report.py` writes it."""
    assert two_gpus_report.REPORT.read_text(encoding="utf-8") == page()


def test_the_list_has_what_the_claim_needs() -> None:
    """Twelve layouts of one model, three each of EP, TP, PP and CP, equal steps, no rule broken."""
    entries = listed()
    assert len({entry.row.id for entry in entries}) == len(entries)
    for model in MODELS:
        layouts = [entry.layout for entry in entries if entry.model == model]
        assert len(layouts) >= 12
        for name in ("ep", "tp", "pp", "cp"):
            assert sum(getattr(layout, name) == 2 for layout in layouts) >= 3
    for entry in entries:
        words = entry.row.argv
        assert words[words.index("--max_length") + 1] == str(SEQ_LENGTH)
        assert words[words.index("--global_batch_size") + 1] == str(GLOBAL_BATCH_SIZE)
        fields = Sizes.__dataclass_fields__
        sizes = Sizes(**{name: getattr(entry.layout, name) for name in fields})
        assert violations(problem_of(entry.model), sizes) == ()
        assert Entry.from_json(entry.to_json()) == entry


def test_rounds_have_every_layout_once_and_go_on_where_they_were() -> None:
    every = two_gpus_run.to_do([], "")
    assert len(every) == 3 * len(listed())
    done = {"id": every[0][1].row.id, "round": 0, "status": 0}
    failed = {"id": every[1][1].row.id, "round": 0, "status": 1}
    rest = two_gpus_run.to_do([done, failed, failed], "")
    assert rest == every[2:]
    assert two_gpus_run.to_do([failed], "")[0] == every[0]
    assert {each.model for _, each in two_gpus_run.to_do([], "moonlight")} == {"moonlight"}


LAYOUT = listed()[0].layout


def rows(pairs: list[tuple[float, tuple[float, ...]]]) -> list[Compared]:
    return [
        Compared(id=str(number), layout=LAYOUT, predicted=predicted, repeats=repeats)
        for number, (predicted, repeats) in enumerate(pairs)
    ]


@given(st.lists(st.floats(0.1, 9.0), min_size=2, max_size=8, unique=True))
def test_tau_is_one_for_the_same_order_and_minus_one_for_its_reverse(seconds: list[float]) -> None:
    same = rows([(each, (each,)) for each in seconds])
    reverse = rows([(-each, (each,)) for each in seconds])
    for found, expected in ((same, 1.0), (reverse, -1.0)):
        judged = order(found, Compared.by_plan, 0)
        assert judged.tau == expected
        assert judged.pairs == len(seconds) * (len(seconds) - 1) / 2
    assert order(same, lambda row: 0, 0).tau == 0
    assert first_choice(same) == 0


def test_pairs_within_the_noise_are_left_out() -> None:
    """The first two differ by 1 %, less than their repeats do; the third is far away."""
    found = rows([(2.0, (0.98, 1.0, 1.02)), (1.0, (0.99, 1.01, 1.03)), (3.0, (2.0, 2.0, 2.0))])
    assert 0.01 < noise(found) < 0.02
    judged = order(found, Compared.by_plan, least_difference(found))
    assert (judged.tau, judged.pairs) == (1.0, 2)
    assert round(first_choice(found), 2) == 0.01
