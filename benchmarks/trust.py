"""Writes into README.md how far plans can be trusted, with the figures of the pages beside this.

    make pages

A test holds the README to it.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

import design_errors
import golden
import one_rank
import published_errors
import published_filter
import published_runs
import report
import save_page
import two_gpus_report
from design_errors import nine_of_ten
from golden_runs import covered_rows, tests
from nvlink_rows import nvlink_ranks

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- trust -->\n", "<!-- end of trust -->\n"

TEXT = """\
- Memory was [compared with {ranks} measured ranks](benchmarks/memory/README.md) of five model
  families on H100s and an H200, chosen before anything was predicted. On the last {last}, which
  nobody had looked at and nothing was changed for, nine of ten are within {peak} for the allocated
  peak, {reserved} for reserved memory (5 % was wanted) and {used} for device use without NCCL, by
  which fit is decided; the worst are {worst} off. Peaks with fused weight gradients are within
  {fused} ({fused_count} ranks), those of loading and saving within {saved}. Reserved memory of
  {nvlink} ranks of real runs on two GPUs is within {nvlink_reserved}, and of {real} others of two
  ranks within {real_reserved}. Of {golden}
  [golden values of Megatron-LM](benchmarks/memory/GOLDEN.md) half are within {golden_half} and nine
  of ten within {golden_most}; {golden_above} are more than 10 % off, each with its reason there.
- The emitted scripts were [run on a GPU](benchmarks/end_to_end/README.md), and
  [launched, killed, and gone on with](benchmarks/launch/README.md) as two nodes on two GPUs of one
  host.
- **Step times of more than two GPUs were never measured here.** Of
  [{layouts} layouts of two](benchmarks/steptime/TWO_GPUS.md), of one model with six layers, {runs}
  runs of each, the first choice was the fastest, {pairs} pairs that differ by more than noise have
  a tau of {tau:.2f} (all pairs {tau_all:.2f}), and seconds are within {steps_half} (half) and
  {steps} (nine of ten). Compute of [single ranks](benchmarks/steptime/ONE_RANK.md) is within
  {compute_half} and {compute} on an H200, of ranks that nothing was fitted to (8 % was wanted: many
  wait for the host, which takes up to half as long again at other times). Of
  [{published} published runs](benchmarks/steptime/PUBLISHED.md) on Hopper GPUs half are within
  {held_out} once three factors are fitted to the runs of other models; with nothing fitted half are
  more than {modelled} off, as those hosts launch kernels twice as fast and fuse more.
  `plan calibrate` reads such factors off your own logs. Which plans are tied follows from these
  errors: try the two that are named.
"""


def _percent(error: float) -> str:
    return f"{100 * error:.1f} %"


def _of_memory() -> dict[str, object]:
    lot, fused = design_errors.first_look2(), design_errors.first_look_fused()
    found = {}
    worst = []
    for name, quantity in (
        ("peak", "peak_allocated"),
        ("reserved", "peak_reserved"),
        ("used", "device_used"),
    ):
        errors = [abs(rank.error(quantity)) for rank in lot if quantity in rank.pairs]
        found[name] = _percent(nine_of_ten(errors))
        worst.append(f"{100 * max(errors):.1f}")
    number = len(design_errors.ranks()) + len(design_errors.fresh()) + len(lot) + len(fused)
    return found | {
        "ranks": number,
        "last": len(lot),
        "worst": f"{worst[0]}, {worst[1]} and {worst[2]} %",
        "fused": _most(rank.error("peak_allocated") for rank in fused),
        "fused_count": len(fused),
        "saved": _most(predicted / measured - 1 for *_, predicted, measured in save_page.pairs()),
    }


def _of_real_runs() -> dict[str, object]:
    nvlink, real = nvlink_ranks(), report.real_runs()
    values = [abs(row.error) for row in covered_rows(tests())]
    return {
        "nvlink": len(nvlink),
        "nvlink_reserved": _most(rank.error("peak_reserved") for rank in nvlink),
        "real": len(real),
        "real_reserved": _most(rank.error("peak_reserved") for rank in real),
        "golden": len(values),
        "golden_half": _percent(median(values)),
        "golden_most": _percent(nine_of_ten(values)),
        "golden_above": sum(error > golden.ASK_ABOVE for error in values),
    }


def _of_time() -> dict[str, object]:
    layouts = two_gpus_report.every_layout()
    least = two_gpus_report.least_difference(layouts)
    order, every = (
        two_gpus_report.order(layouts, two_gpus_report.Compared.by_plan, each)
        for each in (least, 0.0)
    )
    assert two_gpus_report.first_choice(layouts) == 0.0, "TEXT says that it is the fastest"
    steps = [abs(each.predicted / each.measured - 1) for each in layouts]
    ranks = [abs(rank.error) for rank in one_rank.h200_ranks(second_lot=True)]
    rows = published_errors.rows_of(published_runs.admitted_runs())
    bar = [row for row in rows if published_filter.is_in_bar(row.run.facts)]
    return {
        "layouts": len(layouts),
        "runs": min(len(each.repeats) for each in layouts),
        "pairs": order.pairs,
        "tau": order.tau,
        "tau_all": every.tau,
        "steps_half": _percent(median(steps)),
        "steps": _percent(nine_of_ten(steps)),
        "compute_half": _percent(median(ranks)),
        "compute": _percent(nine_of_ten(ranks)),
        "published": len(bar),
        "held_out": _percent(published_errors.median_error(bar, "held_out")),
        "modelled": f"{100 * published_errors.median_error(bar, 'modelled'):.0f} %",
    }


def _most(errors: Iterable[float]) -> str:
    return _percent(max(map(abs, errors)))


def text() -> str:
    """What stands in the README between the two marks."""
    return TEXT.format(**_of_memory(), **_of_real_runs(), **_of_time())


def main() -> None:
    """Write it there."""
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    assert after, "the marks are missing"
    README.write_text(f"{before}{START}{text()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
