"""Compares what the planner predicts of Megatron-LM's published runs with their golden values.

    make pages

writes GOLDEN.md beside this file. `golden_filter.yaml` says which runs are covered,
`golden_runs.py` how their flags are read.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from golden_filter import flags_that_do_not_matter, uncovered_because
from golden_runs import Row, Test, Value, covered_rows, tests

from planner.units import GIB

PAGE = Path(__file__).parent / "GOLDEN.md"
ASK_ABOVE = 0.10  # an error above this is explained
LARGE_BYTES = 10 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why some rows are off by more than 10 %."""

    key: str
    explains: Callable[[Value], bool]
    text: str


EXPLANATIONS = (
    Explanation(
        key="no flash attention",
        explains=lambda value: value.file.endswith(("dracooci.json", "dracooci-ord.json")),
        text="these machines ran unfused attention, though the flags leave the choice open: GV0036 "
        "and GV0037 are to the byte what GV0023 and GV0024 are, the same job with "
        "`attention_backend` `unfused`. It keeps 5 bytes a score (softmax, its dropout, a mask): "
        "160 MiB a layer here. With flash attention, on other machines, the same tests are within "
        "5 %",
    ),
    Explanation(
        key="other flags",
        explains=lambda value: bool(value.flags_then),
        text="measured with other flags than the test has now: `cross_entropy_fusion_impl` was "
        "`te` until 168cb15d70 (2026-06-03), and the value is older. Transformer Engine's loss "
        "writes its gradient over the logits and keeps no fp32 copy. GV0533, the same test with "
        "fewer steps, was measured after the change and is 19.5 GiB higher",
    ),
    Explanation(
        key="after loading",
        explains=lambda value: value.id == "GV0329",
        text="0.17 GiB more than in any other value of this test are allocated between steps too "
        "(0.65 against 0.40 to 0.48 GiB): the run went on from a checkpoint, and something of its "
        "loading stayed",
    ),
    Explanation(
        key="number of GPUs",
        explains=lambda value: value.id in ("GV0536", "GV0538"),
        text="not explained by a flag. Both have the same flags and 1.07 GiB more between steps "
        "than any number of whole hosts would give, so that the number of GPUs that is assumed is "
        "likely wrong; and their peaks differ by 1.06 GiB, by the natural routing of 4,538 and of "
        "263 logged steps, which the prediction takes for balanced",
    ),
)


def explanation_of(row: Row) -> str:
    """The key of the explanation of a row's error; empty: there is none."""
    return next((each.key for each in EXPLANATIONS if each.explains(row.value)), "")


HEAD = """\
# Golden values of Megatron-LM

Written by `golden.py` (`make pages`); a test holds it up to date.

Megatron-LM keeps what its functional tests logged beside their flags:
`golden_values_*.json` and `model_config.yaml` under `tests/functional_tests/test_cases/`. Those of
commit d98e8a64d (2026-08-22) are in `golden_values.jsonl`: {values} values of {tests} tests, each
the largest `mem-max-allocated-bytes` of all logged steps, of the last rank. No constant of the
memory model was fitted to them. Routing is natural, and the largest step counts; the prediction is
for balanced routing and the stack `gpu-kit-2026-11`, though the values come from many releases.
"""

RULES = """
## Which are covered

`golden_filter.yaml` names every flag of every test. It is used, it does not matter, or it makes the
row uncovered, for the first reason that applies:

"""

NO_MATTER_HEAD = """
Flags that do not matter are about:

"""

READ = """
## How they are read

- A feed-forward part without a gate is predicted as a gated one of two thirds of its width: it has
  as many parameters, and keeps as many activations.
- The masks of dropout, which no fine-tuning run has, are added to the prediction: a byte an
  element, twice a layer and once after the embedding.
- Learned positions (9 MiB with their states, on the first stage) and the biases of LayerNorm are
  left out.
- The `flex` dispatcher is predicted as `alltoall`: buffers of HybridEP are not modelled.
- The vocabulary is the tokenizer's, padded as Megatron-LM pads it.
- Release tests do not say on how many GPUs they ran. It is then the number of whole hosts whose
  predicted memory between steps is nearest to the published one (`~`). A row's peak has no part in
  the choice.
"""

ROWS = """
## Errors

Of {count} covered values, {above} are off by more than 10 %, for the reasons below; nine of ten of
the others are within {others_p90:.1%}. Of those of {large} GiB and more the median error is
{large_p50:.1%} and the largest {large_max:.1%} ({large_count} rows), of the small ones
{small_p50:.1%} and {small_max:.1%} ({small_count} rows).
"""

TABLE = """
Each cell is predicted / measured in GiB (error); `between steps` is `mem-allocated-bytes`.

"""


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(predicted: int, measured: int) -> str:
    error = round(predicted / measured - 1, 3) + 0.0  # no -0.0
    return f"{predicted / GIB:.2f} / {measured / GIB:.2f} ({error:+.1%})"


def reasons(found: list[Test]) -> Counter[str]:
    """How many values are uncovered, by reason; those that logged no memory among them."""
    count: Counter[str] = Counter()
    for test in found:
        logged = [value for value in test.values if value.peak_allocated is not None]
        count["no peak was logged"] += len(test.values) - len(logged)
        reason = uncovered_because(test.flags)
        if reason is not None:
            count[reason] += len(logged)
    return count


def _summary(rows: list[Row]) -> str:
    large = [abs(row.error) for row in rows if row.measured >= LARGE_BYTES]
    small = [abs(row.error) for row in rows if row.measured < LARGE_BYTES]
    others = [abs(row.error) for row in rows if abs(row.error) <= ASK_ABOVE]
    return ROWS.format(
        others_p90=_share(0.9, others),
        count=len(rows),
        above=sum(abs(row.error) > ASK_ABOVE for row in rows),
        large=LARGE_BYTES // GIB,
        large_p50=_share(0.5, large),
        large_max=max(large),
        large_count=len(large),
        small_p50=_share(0.5, small),
        small_max=max(small),
        small_count=len(small),
    )


def _share(share: float, errors: list[float]) -> float:
    """The error that this share of them stays within."""
    return sorted(errors)[math.ceil(share * len(errors)) - 1]


def _row(row: Row) -> str:
    gpus = f"{'' if row.value.num_gpus else '~'}{row.num_gpus}"
    why = explanation_of(row) if abs(row.error) > ASK_ABOVE else ""
    return _line(
        row.value.id,
        row.test,
        row.value.file.removeprefix("golden_values_").removesuffix(".json"),
        row.value.written_in.partition(" ")[2],
        gpus,
        _cell(row.predicted, row.measured),
        _cell(row.predicted_steady, row.measured_steady),
        why,
    )


def page(found: list[Test], rows: list[Row]) -> str:
    """The text of GOLDEN.md."""
    lines = [HEAD.format(values=sum(len(test.values) for test in found), tests=len(found)), RULES]
    lines += [_line("values", "uncovered because of"), _line("---", "---")]
    lines += [_line(str(number), reason) for reason, number in reasons(found).most_common()]
    lines.append(NO_MATTER_HEAD)
    for reason, flags in flags_that_do_not_matter().items():
        lines.append(f"- {reason}: {', '.join(f'`{flag}`' for flag in sorted(flags))}.")
    lines += [READ, _summary(rows)]
    used = {explanation_of(row) for row in rows if abs(row.error) > ASK_ABOVE}
    lines += [f"- **{each.key}**: {each.text}." for each in EXPLANATIONS if each.key in used]
    titles = ("row", "test", "values", "since", "GPUs", "peak allocated", "between steps", "why")
    lines += [TABLE, _line(*titles), _line(*["---"] * len(titles)), *map(_row, rows)]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def main() -> None:
    """Write the page."""
    found = tests()
    PAGE.write_text(page(found, covered_rows(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
