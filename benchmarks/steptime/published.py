"""Compares the step times that the planner predicts with those of published runs.

    make pages

writes PUBLISHED.md beside this file; benchmarks/memory has what reads the flags of Megatron-LM's
tests. `published_filter.yaml` says which runs are compared,
`published_runs.py` how they are read, `published_fit.py` what is fitted.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from published_errors import Row, Sweep, by, median_error, rows_of, sweeps, tflops
from published_filter import FILTER, is_in_bar, is_refused, job_of, out_because, published
from published_fit import NAMES, fitted
from published_reasons import REASONS, reason_of
from published_routing import pairs
from published_runs import admitted_runs, bar_runs

from planner.workload import ASSUMED_ROUTING_IMBALANCE

PAGE = Path(__file__).parent / "PUBLISHED.md"

# The bars.
MOST_ERROR = 0.15
MOST_OF_CONSTANT = 0.5
LEAST_TAU = 0.7
MOST_TOP_CHOICE = 0.10
LEAST_EVALUATED = 0.9

HEAD = """\
# Published runs

Written by `published.py` (`make pages`); a test holds it up to date.

`published.jsonl` has {all} runs that others published, with what their sources state of them.
{admitted} state enough for a prediction; the bar is about the {bar} of them on Hopper GPUs that
share experts among GPUs and compute in bf16. The filter was committed before any prediction was
looked at, and no run was taken out afterwards.

## Bars

"""

MISSED = """
Why some are missed:

- Qwen3-235B-A22B: two of its runs are the same job, published twice, 1.4 times apart. No prediction
  can put both right, and the order found is the best there is. That job is the first choice: once
  it was the fastest of all, and once 41% slower. While all of an exchange beside another microbatch
  counted as hidden the first choice was another run, 9.4% slower than the fastest.
- Moonlight-16B-A3B: its runs differ in what is recomputed, and by 11% at the most. The host decides
  in all of them. What it takes to run a module again was read off our own models, not off these
  runs: 0.5 ms a layer for a norm, of which these runs say 0.75 where all else that the host does
  takes half the time. And they say that the feed-forward part of their one dense layer takes 16 ms,
  which nothing explains.
  Without the host's time of modules tau was 0.20, and the first choice 10.8% slower than the
  fastest.
"""

FITTED = """
## What is fitted

Three factors, for all runs of the bar alike, whatever their source, model or release: of what
kernels take (matrix products and memory traffic), of what the host takes to launch them, both as a
topology file may carry, and of the latter where the dispatcher is DeepEP or HybridEP: they do in a
few kernels what sorting and plain collectives do in many, and most of these runs fuse their router
or replay CUDA graphs besides. A plan has none of the three. Collectives and dispatchers take what
was measured of them elsewhere. A fourth number that runs of the bar had a say in is in plans: at
most 45 % of an exchange beside another microbatch is hidden, chosen between a published profile and
two of these runs (`planner/communication.py`).
An error below is of factors that were fitted to the runs of the other models (held out). What the
third number is about was chosen after errors were seen: with one factor of launches and one of
collectives the median held out was 26.7%, with a third number about fused routers 20.4%. No factor
may be below 0.05, as in a topology file. Before the host's share of a step was fitted to our own
ranks (ONE_RANK.md) the median held out was 14.2%.

"""

OUT = """
## Which are not compared

For the first reason that applies. A fact that a run does not state is taken from the recipe that
it names, where that is public; `looked_up` in its row says which facts, and from which file and
commit. Recipes were looked up of bf16 runs on Hopper, and of gpt-oss-120b on other GPUs.

"""

READ = """
## How they are read

- Seconds of a step are those printed, or they follow from tokens/s, or from TFLOP/s as Megatron-LM
  counts since commit 8873b55d6a (causal attention halved, top-k experts, output layer).
- Forced balance, and a capacity factor, are an imbalance of 1.0; natural routing is the imbalance
  that the planner assumes when it knows none.
- Packs of documents are of {documents} tokens a document in the runs on tulu3: two of its cards say
  how many documents a pack holds.
- Layers are split as Megatron-Core splits them, with the embedding and the loss accounted for where
  the source says so, or where it could not split them otherwise.
- The stack is `{stack}`: weight gradients are fused.
- H100 and H200 hosts are 8 GPUs with 400 Gbit/s InfiniBand each; runs do not say more.
"""

WRONG = """
## What the model gets wrong

Runs off by more than {most:.0%} (held out), by what they have in common.

"""


ROUTING = """
## Natural routing

Runs that differ in routing only, and the load of the busiest rank, over the mean, at which the
model (with the factors fitted to all runs) is as much slower as they were. What the planner assumes
when it knows none: {assumed}.

"""


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _table(*titles: str) -> list[str]:
    return [_line(*titles), _line(*["---"] * len(titles))]


def _percent(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.1%}"  # no -0.0


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


def _bars(rows: Sequence[Row]) -> list[str]:
    error, constant = median_error(rows, "held_out"), median_error(rows, "constant")
    share = error / constant
    admitted = sum(out_because(facts) is None and is_in_bar(facts) for facts in published())
    lines = _table("bar", "wanted", "found", "")
    lines.append(
        _line(
            "evaluated of the admitted runs",
            f"at least {LEAST_EVALUATED:.0%}",
            f"{len(rows)} of {admitted}",
            _verdict(len(rows) / admitted >= LEAST_EVALUATED),
        )
    )
    every = admitted + sum(is_refused(facts) and is_in_bar(facts) for facts in published())
    lines.append(
        _line(
            "the same with runs whose model or layout it does not plan",
            f"at least {LEAST_EVALUATED:.0%}",
            f"{len(rows)} of {every}, {len(rows) / every:.0%}",
            _verdict(len(rows) / every >= LEAST_EVALUATED),
        )
    )
    lines.append(
        _line(
            "median absolute error, each model held out",
            f"at most {MOST_ERROR:.0%}",
            f"{error:.1%}",
            _verdict(error <= MOST_ERROR),
        )
    )
    lines.append(
        _line(
            "of that of a constant TFLOP/s, each model held out",
            f"at most {MOST_OF_CONSTANT:.0%}",
            f"{share:.0%} ({error:.1%} of {constant:.1%})",
            _verdict(share <= MOST_OF_CONSTANT),
        )
    )
    for sweep in sweeps(rows):
        model, gpu, number, sequence, batch, *_ = job_of(sweep.rows[0].run.facts)
        name = f"{model} on {number} {gpu}, {batch} x {sequence} tokens: {len(sweep.rows)} runs"
        lines.append(_line(f"tau of {name}", f"at least {LEAST_TAU}", *_tau(sweep)))
        lines.append(
            _line(
                "its first choice over the fastest",
                f"at most {MOST_TOP_CHOICE:.0%}",
                f"{sweep.top_choice:.1%}",
                _verdict(sweep.top_choice <= MOST_TOP_CHOICE),
            )
        )
    return lines


def _tau(sweep: Sweep) -> tuple[str, str]:
    found = f"{sweep.tau:.2f} (no prediction from what is stated can have more than "
    found += f"{sweep.best_tau:.2f})"
    return found, _verdict(sweep.tau >= LEAST_TAU)


def _fitted(rows: Sequence[Row]) -> list[str]:
    names = {row.run.model.name for row in rows}
    lines = _table("fitted to", *NAMES)
    for name, factors in fitted().items():
        title = "all runs" if name == "all" else f"all but {name}"
        assert name == "all" or name in names, name
        lines.append(_line(title, *(f"{getattr(factors, each):.2f}" for each in NAMES)))
    lines += ["", *_table("median absolute error", "")]
    for what, title in (
        ("modelled", "nothing fitted"),
        ("fitted", "fitted to all runs"),
        ("held_out", "each model held out"),
        ("constant", "constant TFLOP/s: the median of the other models"),
        ("own_constant", "constant TFLOP/s: the median of the same model's own runs"),
    ):
        lines.append(_line(title, f"{median_error(rows, what):.1%}"))
    return lines


def _out() -> list[str]:
    count = Counter(
        "something is not stated" if reason.startswith("not stated") else reason
        for reason in map(out_because, published())
        if reason is not None
    )
    lines = _table("runs", "out because")
    return lines + [_line(str(number), reason) for reason, number in count.most_common()]


def _wrong(rows: Sequence[Row]) -> list[str]:
    far = [row for row in rows if abs(row.error("held_out")) > MOST_ERROR]
    groups = by(far, lambda row: reason_of(row.run))
    lines = []
    for key, group in groups.items():
        errors = sorted(row.error("held_out") for row in group)
        many = f"{len(group)} run{'s' if len(group) > 1 else ''}"
        spread = f"{_percent(errors[0])} to {_percent(errors[-1])}" if len(errors) > 1 else ""
        spread = spread or _percent(errors[0])
        lines.append(f"- **{key}** ({many}, {spread}): {REASONS[key].text}.")
    return lines


def _routing() -> list[str]:
    lines = _table("forced balance", "natural", "times as slow", "busiest over mean")
    for pair in pairs(bar_runs()):
        imbalance = f"{pair.imbalance(fitted()['all']):.2f}"
        lines.append(_line(pair.forced.id, pair.natural.id, f"{pair.slower:.3f}", imbalance))
    return lines


def _row(row: Row) -> str:
    run, facts = row.run, row.run.facts
    sizes = [f"{name}{run.get(name)}" for name in ("tp", "pp", "vpp", "cp", "ep", "etp")]
    extras = [*facts.get("overlap", ()), *(("graphs",) if "cuda_graphs" in facts else ())]
    far = is_in_bar(facts) and abs(row.error("held_out")) > MOST_ERROR
    return _line(
        row.run.id,
        run.model.name.rpartition("/")[2],
        f"{facts['num_gpus']} {facts['gpu']}",
        " ".join(size for size in sizes if not size.endswith("p1") or size in ("tp1", "pp1")),
        f"{facts['micro_batch_size']} of {facts['global_batch_size']} x {facts['seq_length']}",
        facts["recompute"],
        facts.get("dispatcher", ""),
        ", ".join(extras),
        facts.get("routing", ""),
        f"{row.measured:.2f}",
        f"{tflops(row):.0f}",
        _percent(row.error("modelled")),
        _percent(row.error("fitted")),
        _percent(row.error("held_out")),
        reason_of(run) if far else "",
    )


TITLES = (
    *("row", "model", "GPUs", "layout", "batch", "recompute", "dispatcher", "with", "routing"),
    *("seconds", "TFLOP/s", "nothing fitted", "fitted", "held out", "why"),
)


def page() -> str:
    """The text of PUBLISHED.md."""
    runs = admitted_runs()
    rows = rows_of(runs)
    bar = [row for row in rows if is_in_bar(row.run.facts)]
    aside = [row for row in rows if not is_in_bar(row.run.facts)]
    documents = max(row.run.facts.get("mean_document_tokens", 0) for row in rows)
    lines = [HEAD.format(all=len(published()), admitted=len(runs), bar=len(bar)), *_bars(bar)]
    lines += [MISSED, FITTED, *_fitted(bar)]
    lines += [WRONG.format(most=MOST_ERROR), *_wrong(bar)]
    lines += [ROUTING.format(assumed=ASSUMED_ROUTING_IMBALANCE), *_routing()]
    lines += [READ.format(documents=documents, stack=FILTER["stack"]), OUT, *_out()]
    lines += ["\n## Runs of the bar\n", *_table(*TITLES), *map(_row, bar)]
    lines += [
        "\n## Set aside\n\nOther GPUs, and experts that are not shared. Nothing was fitted to "
        "them.\n",
        *_table(*TITLES),
        *map(_row, aside),
    ]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
