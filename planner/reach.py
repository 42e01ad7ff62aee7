"""How few GPUs a job fits, and how long its packs may be: searches of one problem after another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf

from planner.evaluate import Evaluator
from planner.inputs import LIMITS
from planner.no_fit import least_gpus, nothing_found
from planner.pareto import dominates
from planner.plan import Plan
from planner.planning import make_plan
from planner.problem import Problem
from planner.search import SearchResult, search
from planner.verdict import Resumes, Verdict

# Numbers of hosts rise by one up to twice as many, from there on by a 32nd to a 16th of themselves.
FINE_HOSTS = 16
LENGTH_STEP = 1024  # tokens; nobody packs to less, or to lengths between
LARGER = (2, 4)  # multiples of the fewest GPUs that are looked at besides
MOST_TRIALS = 48  # searches for the fewest GPUs; each takes a second or more

Tell = Callable[[str], None]


class Question(StrEnum):
    """What is looked for."""

    FEWEST_GPUS = "fewest_gpus"
    LONGEST_SEQUENCE = "longest_sequence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A problem that was searched and its best plan; `result` is None where the bytes of weights,
    gradients and the optimizer's states rule every layout out."""

    problem: Problem
    result: SearchResult | None
    plan: Plan | None

    @property
    def verdict(self) -> str:
        """fits, tight or exceeds; illegal where no layout is legal."""
        if self.plan is not None:
            assert self.plan.verdict is not None
            return self.plan.verdict
        return "illegal" if self.result is not None and not self.result.legal else "exceeds"

    @property
    def fits(self) -> bool:
        """Whether something fits with the margin."""
        return self.verdict == Verdict.FITS.value

    @property
    def can_resume(self) -> bool:
        """Whether some plan that fits can go on after an interruption."""
        return self.result is not None and self.result.resuming is not None

    @property
    def resumes(self) -> bool:
        """Whether its best plan can go on after an interruption, or was asked not to."""
        assert self.plan is not None
        return self.plan.resumes == Resumes.YES.value or self.problem.recipe.no_save_optim

    @property
    def num_gpus(self) -> int:
        """GPUs in all."""
        return self.problem.cluster.num_gpus

    @property
    def costs(self) -> tuple[float, float]:
        """Seconds a token takes the job, and seconds it takes of GPUs; endless where nothing
        fits."""
        if self.plan is None:
            return inf, inf
        seconds = 1 / self.plan.tokens_per_second_per_gpu
        return seconds / self.num_gpus, seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The trials in the order of what was varied, and the one that answers the question."""

    question: Question
    trials: tuple[Trial, ...]
    answer: Trial

    def on_front(self, trial: Trial) -> bool:
        """Whether a trial fits and no other that does is faster and cheaper a token."""
        return trial.fits and not any(
            dominates(other.costs, trial.costs) for other in self.trials if other.fits
        )


def try_out(problem: Problem) -> Trial:
    """Search a problem."""
    evaluator = Evaluator(problem)
    result = search(evaluator)
    plan = make_plan(evaluator, result.ranked[0].layout(problem)) if result.ranked else None
    return Trial(problem=problem, result=result, plan=plan)


def gpu_counts(host_gpus: int, most: int) -> Iterator[tuple[int, int]]:
    """Numbers of hosts and of GPUs on each, rising: the divisors of a host, then whole hosts."""
    for gpus in range(1, host_gpus):
        if host_gpus % gpus == 0 and gpus <= most:
            yield 1, gpus
    hosts = step = 1
    while hosts * host_gpus <= most:
        yield hosts, host_gpus
        while hosts >= 2 * FINE_HOSTS * step:
            step *= 2
        hosts += step


def fewest_gpus(problem: Problem, *, most: int | None, batch_given: bool, tell: Tell) -> Reach:
    """The fewest GPUs that a problem fits, of `gpu_counts` up to `most`; and multiples of them, to
    weigh time against cost. A batch that was not given grows until each GPU gets as many packs.

    Raises NothingFitsError: nofit.error; UsageError: input.batch, input.nothing_legal,
    input.never_legal.
    """
    counts = list(gpu_counts(problem.cluster.host_gpus, most or LIMITS["gpus"][1]))
    stated = [_on(problem, hosts, gpus, batch_given) for hosts, gpus in counts]
    trials = _until_it_fits(stated, least_gpus(problem), tell)
    fitting = [trial for trial in trials if trial.fits] or [trial for trial in trials if trial.plan]
    if not fitting:
        last = trials[-1]
        raise nothing_found(last.problem, last.result or search(Evaluator(last.problem)))
    answer = fitting[0]
    for larger in stated[len(trials) :]:
        if larger.cluster.num_gpus in [answer.num_gpus * multiple for multiple in LARGER]:
            tell(f"{larger.cluster.num_gpus} GPUs")
            trials.append(try_out(larger))
    return Reach(question=Question.FEWEST_GPUS, trials=tuple(trials), answer=answer)


def _until_it_fits(stated: list[Problem], least_gpus: float, tell: Tell) -> list[Trial]:
    """Trials of growing clusters, the last of which fits; all of them, or `MOST_TRIALS` searches,
    where none does."""
    trials: list[Trial] = []
    searches = 0
    for problem in stated:
        gpus = problem.cluster.num_gpus
        if gpus < least_gpus:
            trials.append(Trial(problem=problem, result=None, plan=None))
            continue
        tell(f"{gpus} GPUs")
        trials.append(try_out(problem))
        searches += 1
        if trials[-1].fits or searches == MOST_TRIALS:
            break
    return trials


def _on(problem: Problem, hosts: int, gpus_per_node: int, batch_given: bool) -> Problem:
    """The problem on so many hosts."""
    cluster = replace(problem.cluster, num_nodes=hosts, gpus_per_node=gpus_per_node)
    workload = problem.workload
    if not batch_given:
        unit = cluster.num_gpus * (workload.micro_batch_size or 1)
        batch = -(-workload.global_batch_size // unit) * unit
        workload = replace(workload, global_batch_size=batch)
    return replace(problem, cluster=cluster, workload=workload)


def longest_sequence(problem: Problem, *, tell: Tell) -> Reach:
    """The longest packs, in steps of `LENGTH_STEP`, that fit: they do, and the next step does not.

    Raises NothingFitsError: nofit.error; UsageError: input.batch, input.nothing_legal,
    input.never_legal.
    """
    trials: dict[int, Trial] = {}

    def fits(length: int) -> bool:
        if length not in trials:
            tell(f"packs of {length} tokens")
            trials[length] = try_out(_with_length(problem, length))
        return trials[length].fits

    longest = search_lengths(fits, _whole_steps(problem.workload.seq_length))
    answer = trials[longest or LENGTH_STEP]
    if answer.plan is None:
        assert answer.result is not None
        raise nothing_found(answer.problem, answer.result)
    return Reach(
        question=Question.LONGEST_SEQUENCE,
        trials=tuple(trials[length] for length in sorted(trials)),
        answer=answer,
    )


def search_lengths(fits: Callable[[int], bool], start: int) -> int:
    """A length that fits where a step more does not, found from the first on; 0 where
    `LENGTH_STEP` does not fit, and the most of `LIMITS` where that fits."""
    fitting, exceeding = _bracket(fits, start)
    while exceeding - fitting > LENGTH_STEP:
        middle = _whole_steps((fitting + exceeding) // 2)
        if fits(middle):
            fitting = middle
        else:
            exceeding = middle
    return fitting


def _bracket(fits: Callable[[int], bool], start: int) -> tuple[int, int]:
    """A length that fits and a longer one that does not, by doubling or halving the first; 0 where
    the shortest does not fit, and a step beyond the most where that does."""
    most = LIMITS["seq_length"][1]
    if fits(start):
        while start < most:
            if not fits(min(2 * start, most)):
                return start, min(2 * start, most)
            start = min(2 * start, most)
        return most, most + LENGTH_STEP
    while start > LENGTH_STEP:
        half = _whole_steps(start // 2)
        if fits(half):
            return half, start
        start = half
    return 0, LENGTH_STEP


def _whole_steps(length: int) -> int:
    return max(1, length // LENGTH_STEP) * LENGTH_STEP


def _with_length(problem: Problem, length: int) -> Problem:
    """The problem with packs of a length, and documents no longer than they are."""
    workload, documents = problem.workload, problem.workload.mean_document_tokens
    if documents is not None:
        documents = min(documents, length)
    workload = replace(workload, seq_length=length, mean_document_tokens=documents)
    return replace(problem, workload=workload)
