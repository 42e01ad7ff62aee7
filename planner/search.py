"""Enumerate every layout, refuse what is illegal, evaluate the rest, rank what fits.

Sizes go from the grid inwards (TP, CP, PP, EP, ETP; VPP; micro-batch; recomputation), so that a
broken rule refuses a whole subtree; its leaves are counted under the rule. The pipeline split is
solved for each PP and VPP, and for the best layout of each grid once more by what it takes itself.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, TypeVar

from planner.balance import balanced
from planner.candidates import Candidate, Contenders
from planner.constraints import LEVELS, rules_for
from planner.evaluate import Evaluator
from planner.layer_view import GridSizes
from planner.layout import FULL_RECOMPUTE, NO_RECOMPUTE, Layout, Recompute
from planner.pipeline_layout import layout_chunks
from planner.problem import Problem, Sizes, as_layout
from planner.ranking import rank
from planner.rule import Rule, Violation
from planner.verdict import Verdict, verdict, worse

LARGEST_MICRO_BATCH_SIZE = 4  # longer packs do the same
LARGEST_VIRTUAL_PIPELINE_SIZE = 8

Value = TypeVar("Value")

# Sets of modules worth recomputing, each saving more than the one before it. core_attn is in none:
# fused attention keeps nothing that it could give up.
SPARSE_MODULES = (
    ("layernorm", "moe_act"),
    ("layernorm", "mla_up_proj", "moe_act"),
    ("layernorm", "mla_up_proj", "moe"),
)
DENSE_MODULES = (("mla_up_proj", "mlp"),)


def recompute_ladder(problem: Problem, layers_per_chunk: int) -> list[Recompute]:
    """Choices of recomputation from none to all, those that save memory at growing cost; of them
    what the workload asks for."""
    half = layers_per_chunk // 2
    blocks = [Recompute(granularity="full", method="block", num_layers=half)] if half else []
    ladder = {
        "none": [NO_RECOMPUTE],
        "selective": _selective(problem),
        "full": [*blocks, FULL_RECOMPUTE],
    }
    if problem.workload.recompute != "auto":
        return ladder[problem.workload.recompute]
    return [step for steps in ladder.values() for step in steps]


def _selective(problem: Problem) -> list[Recompute]:
    """The sets of modules, without those that the model lacks or the stack refuses."""
    rules = rules_for(problem, "recompute")

    def allowed(module: str) -> bool:
        alone = Recompute(granularity="selective", modules=(module,))
        return all(
            rule.check(problem, Sizes(world_size=1, recompute=alone)) is None for rule in rules
        )

    sets = SPARSE_MODULES if problem.model.is_moe else DENSE_MODULES
    kept = dict.fromkeys(tuple(module for module in each if allowed(module)) for each in sets)
    return [Recompute(granularity="selective", modules=each) for each in kept if each]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """How many layouts a rule refused, and one of them."""

    count: int
    example: Sizes
    violation: Violation


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """`ranked` holds the best layout of every grid that fits, and the fastest that can go on after
    an interruption where that is none of them: `resuming` is the place, from 1, of the first that
    can. `nearest_miss` is of those that exceed the GPUs; `beyond_hosts` counts those that fit the
    GPUs and need more memory than a node has."""

    enumerated: int
    legal: int
    fitting: int
    beyond_hosts: int
    rejected: dict[str, Rejection]
    ranked: list[Candidate]
    resuming: int | None
    nearest_miss: Layout | None


class _Tally:
    """Counts of a search."""

    def __init__(self) -> None:
        self.enumerated = self.legal = self.fitting = self.beyond_hosts = 0
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, tuple[Sizes, Violation]] = {}
        self.least_over_bytes = inf
        self.least_over: Sizes | None = None

    def missed(self, used: float, sizes: Sizes, size: int, recompute: Recompute) -> None:
        if used < self.least_over_bytes:
            self.least_over_bytes = used
            self.least_over = replace(sizes, micro_batch_size=size, recompute=recompute)


def search(evaluator: Evaluator) -> SearchResult:
    """All layouts of a problem, ranked by tokens per second; deterministic."""
    tally = _Tally()
    grids: dict[GridSizes, Contenders] = {}
    for pipeline in _legal(evaluator, tally):
        sizes = pipeline.sizes
        grid = (sizes.tp, sizes.cp, sizes.pp, sizes.ep, sizes.etp)
        _gather(evaluator, grid, pipeline, tally, grids)
    missed = tally.least_over
    ranking = rank(list(grids.values()))
    return SearchResult(
        enumerated=tally.enumerated,
        legal=tally.legal,
        fitting=tally.fitting,
        beyond_hosts=tally.beyond_hosts,
        rejected={
            rule_id: Rejection(count=tally.counts[rule_id], example=sizes, violation=violation)
            for rule_id, (sizes, violation) in tally.examples.items()
        },
        ranked=ranking.candidates,
        resuming=ranking.resuming,
        nearest_miss=as_layout(evaluator.problem, missed) if missed else None,
    )


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """A legal grid and split with its legal micro-batches and choices of recomputation."""

    sizes: Sizes
    micro_batches: list[int]
    recomputes: list[Recompute]


def _balanced(evaluator: Evaluator, candidate: Candidate) -> Candidate:
    """The candidate with the split that is best for itself."""
    layout = candidate.layout(evaluator.problem)
    found = balanced(evaluator, layout, candidate.step_seconds)
    if found == layout:
        return candidate
    return candidate.with_split(found.split, evaluator.batch(found))


def _gather(
    evaluator: Evaluator,
    grid: GridSizes,
    pipeline: _Pipeline,
    tally: _Tally,
    grids: dict[GridSizes, Contenders],
) -> None:
    """Look at the memory of every micro-batch and recomputation of a pipeline; keep what fits.

    While the pipeline is full, memory never falls as the micro-batch grows (tests hold it), so that
    once a choice of recomputation exceeds the GPU, larger micro-batches are not evaluated. Nor does
    recomputation save time (tests hold it): where a layout fits without it, those with it are
    spare.
    """
    sizes = pipeline.sizes
    assert sizes.split is not None
    view = evaluator.pipeline(grid, sizes.split, sizes.dispatcher)
    usable = evaluator.problem.cluster.gpu.memory_usable_bytes
    tally.legal += len(pipeline.micro_batches) * len(pipeline.recomputes)
    remaining = list(pipeline.recomputes)
    for micro_batch_size in pipeline.micro_batches:
        if not view.is_full(micro_batch_size):
            remaining = list(pipeline.recomputes)
        if not remaining:
            continue
        batch = view.batch(micro_batch_size)
        fits_without = False
        for recompute in list(remaining):
            used = batch.device_used(recompute, tally.least_over_bytes)
            found = verdict(used, usable)
            if found is Verdict.EXCEEDS:
                remaining.remove(recompute)
                tally.missed(used, sizes, micro_batch_size, recompute)
                continue
            if view.host_verdict is Verdict.EXCEEDS:
                tally.beyond_hosts += 1
                continue
            tally.fitting += 1
            if grid not in grids:
                grids[grid] = Contenders(partial(_balanced, evaluator))
            together = worse(found, view.host_verdict)
            choice = sizes, micro_batch_size, recompute, batch
            grids[grid].add(together, choice, spare=fits_without)
            if recompute == NO_RECOMPUTE:
                fits_without = found is Verdict.FITS


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _grids(problem: Problem) -> Iterator[Sizes]:
    """Every pair of grids of the world: tp*cp*pp and etp*ep*pp divide it."""
    world = problem.cluster.num_gpus
    for pp in _divisors(world):
        stage = world // pp
        for tp in _divisors(stage):
            for cp in _divisors(stage // tp):
                for ep in _divisors(stage):
                    for etp in _divisors(stage // ep):
                        yield Sizes(world_size=world, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)


def _micro_batches(problem: Problem) -> list[int]:
    wanted = problem.workload.micro_batch_size
    if wanted is not None:
        return [wanted]
    sizes = [1]
    while sizes[-1] < LARGEST_MICRO_BATCH_SIZE:
        sizes.append(2 * sizes[-1])
    return sizes


def _virtual_sizes(problem: Problem, num_stages: int) -> list[int]:
    """1, and with a pipeline every size that gives all chunks equally many layers; with a named
    split all that it may fit."""
    if num_stages == 1:
        return [1]
    layers = problem.model.num_layers
    layout = problem.settings.pipeline_model_parallel_layout
    if layout is not None:
        return [max(1, len(layout_chunks(layout)) // num_stages)]
    if problem.settings.names_split:
        return list(range(1, LARGEST_VIRTUAL_PIPELINE_SIZE + 1))
    more = range(2, LARGEST_VIRTUAL_PIPELINE_SIZE + 1)
    return [1, *(size for size in more if layers % (num_stages * size) == 0)]


def _legal(evaluator: Evaluator, tally: _Tally) -> Iterator[_Pipeline]:
    problem = evaluator.problem
    referee = _Referee(problem, tally)
    micro_batches = _micro_batches(problem)
    num_layers = problem.model.num_layers
    ladders: dict[int, dict[int, list[Recompute]]] = {}
    for grid in _grids(problem):
        if grid.pp not in ladders:
            ladders[grid.pp] = {
                vpp: recompute_ladder(problem, num_layers // (grid.pp * vpp))
                for vpp in _virtual_sizes(problem, grid.pp)
            }
        leaves = len(micro_batches) * sum(len(ladder) for ladder in ladders[grid.pp].values())
        tally.enumerated += leaves
        if referee.refuses("grid", grid, leaves):
            continue
        for vpp, ladder in ladders[grid.pp].items():
            piped = replace(grid, vpp=vpp, split=evaluator.split(grid.pp, vpp))
            if referee.refuses("pipeline", piped, len(micro_batches) * len(ladder)):
                continue
            sizes = referee.legal("batch", piped, "micro_batch_size", micro_batches, len(ladder))
            if not sizes:
                continue
            recomputes = referee.legal("recompute", piped, "recompute", ladder, len(sizes))
            if recomputes:
                yield _Pipeline(piped, sizes, recomputes)


def refuses_all(evaluator: Evaluator, rule: Rule) -> bool:
    """Whether a rule of the grid or of the pipeline refuses every layout of the cluster."""
    problem = evaluator.problem
    if rule.level == "grid":
        return all(rule.check(problem, grid) is not None for grid in _grids(problem))
    if rule.level != "pipeline":
        return False
    pipelines = {
        (grid.pp, vpp): grid for grid in _grids(problem) for vpp in _virtual_sizes(problem, grid.pp)
    }
    return all(
        rule.check(problem, replace(grid, vpp=vpp, split=evaluator.split(pp, vpp))) is not None
        for (pp, vpp), grid in pipelines.items()
    )


class _Referee:
    """Applies the rules of a level to sizes that differ from earlier ones in what the level reads.

    Rules of the pipeline read pp and vpp, of recomputation the split too, of the batch dp besides.
    """

    def __init__(self, problem: Problem, tally: _Tally) -> None:
        self._problem, self._tally = problem, tally
        self._rules = {level: rules_for(problem, level) for level in LEVELS}
        self._known: dict[tuple[object, ...], tuple[list[Any], Counter[str]]] = {}
        self._pipelines: dict[tuple[int, int], str | None] = {}

    def refuses(self, level: str, sizes: Sizes, leaves: int) -> bool:
        """Whether a rule of the level refuses the sizes; tallies the leaves if so."""
        if level == "pipeline":
            key = (sizes.pp, sizes.vpp)
            if key not in self._pipelines:
                self._pipelines[key] = self._first_broken(level, sizes)
            broken = self._pipelines[key]
        else:
            broken = self._first_broken(level, sizes)
        if broken is not None:
            self._tally.counts[broken] += leaves
        return broken is not None

    def legal(
        self, level: str, sizes: Sizes, field: str, values: list[Value], leaves: int
    ) -> list[Value]:
        """The values of a field that no rule of the level refuses; tallies the others' leaves."""
        key = (level, sizes.pp, sizes.vpp, sizes.dp)
        if key not in self._known:
            changes: list[dict[str, Any]] = [{field: it} for it in values]
            broken = [self._first_broken(level, replace(sizes, **change)) for change in changes]
            allowed = [it for it, rule in zip(values, broken, strict=True) if rule is None]
            self._known[key] = allowed, Counter(rule for rule in broken if rule is not None)
        allowed, refused = self._known[key]
        for rule, number in refused.items():
            self._tally.counts[rule] += number * leaves
        return allowed

    def _first_broken(self, level: str, sizes: Sizes) -> str | None:
        """The id of the first rule of a level that the sizes break; keeps an example of each."""
        for rule in self._rules[level]:
            values = rule.check(self._problem, sizes)
            if values is not None:
                self._tally.examples.setdefault(rule.id, (sizes, Violation(rule, values)))
                return rule.id
        return None
