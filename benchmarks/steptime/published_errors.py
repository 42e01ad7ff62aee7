"""Errors of the time model on published runs, beside those of a constant FLOP/s, and in sweeps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from statistics import median

from published_filter import FILTER, is_in_bar, job_of
from published_fit import AS_MODELLED, Factors, fitted, predicted_seconds, without
from published_runs import TERA, Run

# What says how a run was measured, not what ran.
NOT_OF_THE_CONFIGURATION = frozenset(
    ("id", "source", "looked_up", "model", "framework", *FILTER["needs_one_of"], "mfu_percent")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run with what was measured and what was predicted of its step, in seconds."""

    run: Run
    measured: float
    modelled: float  # nothing is fitted
    fitted: float  # with the numbers fitted to all runs of the bar
    held_out: float  # with those fitted to the runs of other models
    constant: float  # at the median FLOP/s of the runs of other models
    own_constant: float  # at the median FLOP/s of the runs of its own model

    def error(self, what: str) -> float:
        """Predicted over measured, less one; `what` names the prediction."""
        return float(getattr(self, what) / self.measured - 1)

    @property
    def flops_per_second(self) -> float:
        """That a GPU reached."""
        return _flops_per_second(self.run)


def _flops_per_second(run: Run) -> float:
    return run.flops / run.measured_seconds / float(run.facts["num_gpus"])


def _at(flops_per_second: Sequence[float], run: Run) -> float:
    return run.flops / median(flops_per_second) / float(run.facts["num_gpus"])


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """The rows of admitted runs; what is fitted and what is constant comes from those of the
    bar."""
    factors = fitted()
    bar = [run for run in runs if is_in_bar(run.facts)]
    return [_row(run, bar, factors) for run in runs]


def _row(run: Run, bar: Sequence[Run], factors: dict[str, Factors]) -> Row:
    model = run.model.name
    own = [each for each in bar if each.model.name == model] or [run]
    return Row(
        run=run,
        measured=run.measured_seconds,
        modelled=predicted_seconds(run, AS_MODELLED),
        fitted=predicted_seconds(run, factors["all"]),
        held_out=predicted_seconds(run, factors.get(model, factors["all"])),
        constant=_at([_flops_per_second(each) for each in without(bar, model)], run),
        own_constant=_at([_flops_per_second(each) for each in own], run),
    )


def median_error(rows: Sequence[Row], what: str) -> float:
    """The median of the absolute errors."""
    return median(abs(row.error(what)) for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Runs of one job that differ in how it was run."""

    rows: list[Row]

    @property
    def tau(self) -> float:
        """Kendall's tau over the pairs that differ in something that is stated."""
        pairs = [pair for pair in combinations(self.rows, 2) if _differ(*pair)]
        return sum(map(_agreement, pairs)) / len(pairs)

    @property
    def best_tau(self) -> float:
        """The highest tau that any prediction from what is stated can have: runs of one
        configuration are predicted alike, whatever was measured."""
        alike: list[list[Row]] = []
        for row in self.rows:
            same = next((group for group in alike if not _differ(group[0], row)), None)
            if same is None:
                alike.append(same := [])
            same.append(row)
        return max(self._tau_of(order) for order in permutations(alike))

    @staticmethod
    def _tau_of(order: Sequence[list[Row]]) -> float:
        """Tau of groups that are predicted in this order."""
        places = [(place, row.measured) for place, group in enumerate(order) for row in group]
        pairs = [(a, b) for a, b in combinations(places, 2) if a[0] != b[0]]
        return sum((a[1] < b[1]) - (a[1] > b[1]) for a, b in pairs) / len(pairs)

    @property
    def top_choice(self) -> float:
        """Measured seconds of the run that is predicted fastest over those of the fastest, less
        one; the slowest of those that are predicted alike."""
        least = min(row.held_out for row in self.rows)
        chosen = max(row.measured for row in self.rows if row.held_out == least)
        return chosen / min(row.measured for row in self.rows) - 1


def configuration(run: Run) -> dict[str, object]:
    """All that is stated of what ran."""
    return {k: v for k, v in run.facts.items() if k not in NOT_OF_THE_CONFIGURATION}


def _differ(one: Row, other: Row) -> bool:
    return configuration(one.run) != configuration(other.run)


def _agreement(pair: tuple[Row, Row]) -> int:
    one, other = pair
    product = (one.held_out - other.held_out) * (one.measured - other.measured)
    return (product > 0) - (product < 0)


def sweeps(rows: Sequence[Row]) -> list[Sweep]:
    """The sweeps among rows: of enough runs, some of which differ."""
    jobs: dict[object, list[Row]] = {}
    for row in rows:
        jobs.setdefault(job_of(row.run.facts), []).append(row)
    return [
        Sweep(rows=job)
        for job in jobs.values()
        if len(job) >= FILTER["sweep"]["rows"] and any(_differ(*p) for p in combinations(job, 2))
    ]


def by(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows in groups, the larger ones first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def tflops(row: Row) -> float:
    """TFLOP/s that a GPU reached."""
    return row.flops_per_second / TERA
