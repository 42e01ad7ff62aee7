"""Seconds of a step: a list of terms, seen from the slowest stage, adding up to the total.

Compute comes from `planner.compute`, collectives from `planner.communication`, bubbles and waiting
for messages from `planner.schedule`. Nothing overlaps but what `hidden` names.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from planner.parameters import RankParameters
from planner.recipe import Recipe
from planner.schedule import Passes, Schedule, simulated_seconds

# A bucket has so many gradients, and so many for every rank that reduces them (ms-swift 4.6.0,
# swift/megatron/utils/megatron_lm_utils.py:683).
BUCKET_ELEMENTS, BUCKET_ELEMENTS_A_RANK = 40_000_000, 1_000_000

# Categories of `step_seconds`, in the order that they are shown.
CATEGORIES = (
    "compute",
    "exposed_tp_communication",
    "exposed_ep_communication",
    "exposed_cp_communication",
    "exposed_pp_communication",
    "exposed_dp_communication",
    "pipeline_bubble",
    "optimizer",
    "other",
)


@dataclass(frozen=True, slots=True)
class TimeTerm:
    """One reason for time in a step: `seconds` is what is seen, `hidden` what something covers."""

    id: str
    category: str
    seconds: float
    hidden: float
    formula: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The terms of a step on its slowest stage, and the compute seconds of every stage."""

    terms: tuple[TimeTerm, ...]
    slowest_stage: int
    compute_seconds: tuple[float, ...]  # by stage: free communication and no bubble
    # Exposed communication of which another stage has more: the stage that has most, and seconds.
    elsewhere: dict[str, tuple[int, float]]

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return sum(term.seconds for term in self.terms)

    def by_category(self) -> dict[str, float]:
        """Seconds of every category; they add up to the total."""
        found = dict.fromkeys(CATEGORIES, 0.0)
        for term in self.terms:
            found[term.category] += term.seconds
        return found

    def hidden(self) -> dict[str, float]:
        """Seconds that overlap with something else, by term."""
        return {term.id: term.hidden for term in self.terms if term.hidden}


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """Seconds of what a stage does once a step, and the buckets of its gradients."""

    reduce_gradients: float
    gather_parameters: float
    optimizer: float
    other: float
    buckets: int


def gradient_buckets(parameters: RankParameters, ranks: int) -> int:
    """Buckets that gradients of dense parameters and of experts are reduced in, at least one."""
    size = max(BUCKET_ELEMENTS, BUCKET_ELEMENTS_A_RANK * ranks)
    return max(
        1,
        sum(-(-each // size) for each in (parameters.trainable_dense, parameters.trainable_expert)),
    )


class Around(NamedTuple):
    """Exposed seconds of what a stage does once a step, by when it does it."""

    ready: float  # before its first input may come
    opening: float  # when that has come
    after: float  # after its last pass


@dataclass(frozen=True, slots=True)
class Overlap:
    """What communication hides behind, by flag.

    `grad_reduce` (overlap_grad_reduce) reduces gradients during the backward pass of the last
    microbatch, `param_gather` (overlap_param_gather) gathers parameters during the forward pass of
    the first one. `tp_comm` (tp_comm_overlap) gathers and scatters tokens in a piece a rank, beside
    matrix products. `shared_expert` (moe_shared_expert_overlap) runs shared
    experts beside the exchange of routed ones. `expert_parallel` (overlap_moe_expert_parallel_comm)
    runs that exchange beside another microbatch, which hides part of it.
    """

    grad_reduce: bool = False
    param_gather: bool = False
    tp_comm: bool = False
    shared_expert: bool = False
    expert_parallel: bool = False

    def exposed(
        self, once: Once, forward: float, backward: float, schedule: Schedule, stage: int
    ) -> tuple[float, float]:
        """Exposed seconds of the gradients' reduction and of the parameters' gathering of a stage,
        whose microbatch takes `forward` and `backward`.

        The first stage reduces and gathers in buckets, layer by layer; the others have one bucket
        (megatron-core 0.16.1, megatron/core/distributed/distributed_data_parallel.py:101), and
        begin with it after their last backward pass (align_grad_reduce, ms-swift's default). With
        interleaving each chunk is reduced when its last microbatch is through, and gathered before
        its first (schedules.py: grad_sync_func, param_sync_func).
        """
        pieces, microbatches = once.buckets if stage == 0 else 1, 1
        if schedule.interleaved:
            pieces, microbatches = schedule.num_virtual_stages, schedule.group
        reduce, gather = once.reduce_gradients, once.gather_parameters
        if self.grad_reduce:
            reduce = exposed_seconds(reduce, microbatches * backward, pieces)
        if self.param_gather:
            gather = exposed_seconds(gather, microbatches * forward, pieces)
        return reduce, gather

    def around(
        self, once: Once, forward: float, backward: float, schedule: Schedule, stage: int
    ) -> Around:
        """When a stage does what it does once a step; arguments as of `exposed`.

        Parameters are gathered with the optimizer step; overlapping, when the first forward pass
        asks for them (`_make_forward_pre_hook`), with interleaving at once (align_param_gather).
        """
        reduce, gather = self.exposed(once, forward, backward, schedule, stage)
        waits = self.param_gather and not schedule.interleaved
        ready = once.optimizer + once.other
        return Around(
            ready=ready if waits else ready + gather,
            opening=gather if waits else 0.0,
            after=reduce,
        )

    def least(self, once: Once) -> float:
        """What a stage takes at least once a step, whatever hides the rest."""
        reduce = 0.0 if self.grad_reduce else once.reduce_gradients
        gather = 0.0 if self.param_gather else once.gather_parameters
        return once.optimizer + once.other + reduce + gather


def recipe_overlap(recipe: Recipe) -> Overlap:
    """What a run of ms-swift overlaps: it refuses or lacks the flags of all else (4.6.0,
    swift/megatron/arguments/megatron_args.py; of tp_comm_overlap see data/settings.yaml)."""
    return Overlap(
        grad_reduce=recipe.overlap_grad_reduce,
        param_gather=recipe.overlap_param_gather,
        shared_expert=recipe.moe_shared_expert_overlap,
    )


def exposed_seconds(seconds: float, cover: float, pieces: int) -> float:
    """What is seen of communication in equal pieces, each beginning with or after its piece of
    the compute that covers it: at least one piece is not covered."""
    return max(seconds / pieces, seconds - cover * (pieces - 1) / pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """One stage: seconds of a microbatch by cause, and of a step by cause."""

    once: Once
    reduce: float  # exposed
    gather: float  # exposed
    compute: float = 0.0
    tp: float = 0.0
    ep: float = 0.0
    cp: float = 0.0
    tp_hidden: float = 0.0
    ep_hidden: float = 0.0
    cp_hidden: float = 0.0

    @property
    def microbatch(self) -> float:
        """Seconds of one microbatch, forward and backward, with exposed communication."""
        return self.compute + self.tp + self.ep + self.cp

    @property
    def outside(self) -> float:
        """Seconds outside the microbatches."""
        return self.once.optimizer + self.once.other + self.reduce + self.gather


def step_time(stages: list[StageSeconds], passes: Passes) -> StepTime:
    """The step as its slowest stage sees it.

    What it waits for messages is what the step takes longer because of them; the bubble is the rest
    of its waiting.
    """
    number = passes.schedule.num_microbatches
    own = [number * each.microbatch + each.outside for each in stages]
    slowest = max(range(len(stages)), key=own.__getitem__)
    at_once = simulated_seconds(replace(passes, message=0.0))
    messages = max(0.0, simulated_seconds(passes) - at_once)
    stage = stages[slowest]
    return StepTime(
        terms=(
            *_microbatch_terms(stage, number),
            _message_term(passes, slowest, messages),
            TimeTerm(
                "bubble",
                "pipeline_bubble",
                max(0.0, at_once - own[slowest]),  # what sums in another order leave is not waiting
                0.0,
                "passes of all stages in Megatron-Core's order - what the slowest stage does",
            ),
            *_once_terms(stage),
        ),
        slowest_stage=slowest,
        compute_seconds=tuple(
            number * each.compute + each.once.optimizer + each.once.other for each in stages
        ),
        elsewhere=_elsewhere(stages, number, slowest),
    )


def _elsewhere(
    stages: list[StageSeconds], number: int, slowest: int
) -> dict[str, tuple[int, float]]:
    """Of so many microbatches; messages between stages belong to all."""
    by_category = {
        "exposed_tp_communication": [number * each.tp for each in stages],
        "exposed_ep_communication": [number * each.ep for each in stages],
        "exposed_cp_communication": [number * each.cp for each in stages],
        "exposed_dp_communication": [each.reduce + each.gather for each in stages],
    }
    return {
        category: (seconds.index(max(seconds)), max(seconds))
        for category, seconds in by_category.items()
        if max(seconds) > seconds[slowest]
    }


def _message_term(passes: Passes, stage: int, exposed: float) -> TimeTerm:
    """What messages between stages cost, and what of a stage's own they do not."""
    schedule = passes.schedule
    ends = (stage == 0) + (stage == schedule.num_stages - 1)
    sent = 2 * schedule.num_passes - ends * schedule.num_microbatches
    return TimeTerm(
        "stage_boundaries",
        "exposed_pp_communication",
        exposed,
        max(0.0, sent * passes.message - exposed),
        "the schedule with messages - without",
    )


def _microbatch_terms(stage: StageSeconds, number: int) -> tuple[TimeTerm, ...]:
    """What a stage spends on every one of its microbatches."""
    formula = "microbatches * layers of the slowest stage"
    return tuple(
        TimeTerm(name, category, number * seconds, number * hidden, formula)
        for name, category, seconds, hidden in (
            ("compute", "compute", stage.compute, 0.0),
            (
                "sequence_parallel_collectives",
                "exposed_tp_communication",
                stage.tp,
                stage.tp_hidden,
            ),
            ("expert_all_to_all", "exposed_ep_communication", stage.ep, stage.ep_hidden),
            ("context_parallel_ring", "exposed_cp_communication", stage.cp, stage.cp_hidden),
        )
    )


def _once_terms(stage: StageSeconds) -> tuple[TimeTerm, ...]:
    """What a stage spends once a step."""
    once = stage.once
    return (
        TimeTerm(
            "gradient_reduce_scatter",
            "exposed_dp_communication",
            stage.reduce,
            once.reduce_gradients - stage.reduce,
            "gradients of trainable dense over dp*cp, experts over edp",
        ),
        TimeTerm(
            "parameter_all_gather",
            "exposed_dp_communication",
            stage.gather,
            once.gather_parameters - stage.gather,
            "2 B * trainable dense over dp*cp, experts over edp",
        ),
        TimeTerm("adam", "optimizer", once.optimizer, 0.0, "30 B * optimizer elements / memory"),
        TimeTerm(
            "gradient_buffers", "other", once.other, 0.0, "8 B * trainable parameters / memory"
        ),
    )
