"""Seconds of a step: a list of terms, seen from the slowest stage, adding up to the total.

Compute comes from `planner.compute`, collectives from `planner.collectives`, the bubble from
`planner.schedule`. Nothing overlaps but what `hidden` names: gradients and parameters of data
parallelism by the recipe's flags, the context-parallel ring by its design. ms-swift 4.6 has no
schedule that hides expert-parallel communication.
"""

from dataclasses import dataclass

from planner.cluster import Cluster
from planner.collectives import Collective, collective_seconds
from planner.compute import BACKWARD_OVER_FORWARD_GEMM
from planner.layer_shape import BF16, LayerShape
from planner.parameters import RankParameters
from planner.placement import GroupPlacement

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
class LayerCommunication:
    """Exposed and hidden seconds of the collectives of one layer and microbatch."""

    tp: float
    ep: float
    cp: float
    cp_hidden: float


class Communication:
    """Seconds of the collectives of a layout on a cluster."""

    def __init__(self, cluster: Cluster, groups: dict[str, GroupPlacement]) -> None:
        self._cluster, self._groups = cluster, groups

    def seconds(self, collective: Collective, num_bytes: float, group: str) -> float:
        """Seconds of one collective of a group."""
        return collective_seconds(collective, num_bytes, self._groups[group], self._cluster)

    def layer(
        self,
        shape: LayerShape,
        *,
        attention_forwards: int,
        feed_forward_forwards: int,
        attention_seconds: float,
    ) -> LayerCommunication:
        """Collectives of a layer, whose parts run forward as often as said and backward once.

        Sequence parallelism: all-gather into and reduce-scatter out of each tensor-parallel block
        forward; backward the same reversed, and the input gathered again for its weight gradient
        (Korthikanti et al., arXiv 2205.05198, section 4.2.2). Experts: dispatch and combine are an
        all-to-all each, forward and backward, as slow as the rank that receives most; with ETP the
        received rows are gathered and reduced.
        Context parallelism: keys and values go round the ring while attention runs.
        """
        hidden_bytes = shape.tokens * shape.hidden * BF16
        gather = self.seconds("all_gather", hidden_bytes, "tp")
        scatter = self.seconds("reduce_scatter", hidden_bytes, "tp")
        feed_forward_blocks = 1 if not shape.is_moe or shape.shared_ffn else 0
        forwards = attention_forwards + feed_forward_blocks * feed_forward_forwards
        tp = forwards * (gather + scatter) + (1 + feed_forward_blocks) * (2 * gather + scatter)
        ep = 0.0
        if shape.is_moe:
            etp = self._groups["etp"].size
            rows = max(shape.sent_rows, shape.routed_rows / etp) * shape.hidden * BF16
            both = 2 * self.seconds("all_to_all", rows, "ep")
            both += self.seconds("all_gather", rows * etp, "etp")
            both += self.seconds("reduce_scatter", rows * etp, "etp")
            ep = (feed_forward_forwards + 1) * both
        ring = self._groups["cp"].size - 1
        step = self.seconds("p2p", shape.tokens * shape.keys_and_values * BF16, "cp")
        cp = ring * step * (attention_forwards + 2) if ring else 0.0
        exposed = max(0.0, cp - attention_seconds)
        return LayerCommunication(tp=tp, ep=ep, cp=exposed, cp_hidden=cp - exposed)

    def stage_boundary(self, hidden_bytes: float, num_stages: int) -> float:
        """Receiving and sending activations and gradients of one microbatch of one chunk."""
        return 2 * self.seconds("p2p", hidden_bytes, "pp") if num_stages > 1 else 0.0

    def data_parallel(
        self, parameters: RankParameters, *, gradient_bytes: float, sharded: bool
    ) -> tuple[float, float]:
        """Reduce-scatter of the gradients and all-gather of the bf16 parameters of a step; where
        the optimizer is not sharded, an all-reduce and nothing."""
        reduce = gather = 0.0
        collective: Collective = "reduce_scatter" if sharded else "all_reduce"
        for elements, group in (
            (parameters.trainable_dense, "dp_cp"),
            (parameters.trainable_expert, "edp"),
        ):
            reduce += self.seconds(collective, elements * gradient_bytes, group)
            gather += self.seconds("all_gather", elements * BF16, group) if sharded else 0.0
        return reduce, gather


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """One stage: seconds of a microbatch by cause, and of a step by cause."""

    reduce_gradients: float
    gather_parameters: float
    optimizer: float
    other: float
    compute: float = 0.0
    tp: float = 0.0
    ep: float = 0.0
    cp: float = 0.0
    cp_hidden: float = 0.0
    pp: float = 0.0

    @property
    def microbatch(self) -> float:
        """Seconds of one microbatch, forward and backward, with exposed communication."""
        return self.compute + self.tp + self.ep + self.cp + self.pp

    @property
    def once(self) -> float:
        """Seconds after the last microbatch."""
        return self.reduce_gradients + self.gather_parameters + self.optimizer + self.other


@dataclass(frozen=True, slots=True)
class Overlap:
    """What data-parallel communication hides behind, by flag.

    `overlap_grad_reduce` reduces gradients during the backward pass of the last microbatch,
    `overlap_param_gather` gathers parameters during the forward pass of the first one.
    """

    grad_reduce: bool = False
    param_gather: bool = False

    def hidden(self, stage: StageSeconds, compute: float) -> tuple[float, float]:
        """Hidden seconds of the gradients' reduce-scatter and of the parameters' all-gather."""
        forward = compute / (1 + BACKWARD_OVER_FORWARD_GEMM)
        reduce = min(stage.reduce_gradients, compute - forward) if self.grad_reduce else 0.0
        gather = min(stage.gather_parameters, forward) if self.param_gather else 0.0
        return reduce, gather

    def seen(self, stage: StageSeconds, compute: float) -> float:
        """Seconds of a stage outside its microbatches; `compute` is that of one microbatch."""
        return stage.once - sum(self.hidden(stage, compute))


def step_time(
    stages: list[StageSeconds], num_microbatches: int, pipeline: float, overlap: Overlap
) -> StepTime:
    """The step as its slowest stage sees it; `pipeline` is the time of all microbatches."""
    number = num_microbatches
    slowest = max(range(len(stages)), key=lambda index: stages[index].microbatch)
    last = max(stages, key=lambda each: overlap.seen(each, each.compute))
    bubble = pipeline - number * stages[slowest].microbatch
    return StepTime(
        terms=(
            *_microbatch_terms(stages[slowest], number),
            TimeTerm("bubble", "pipeline_bubble", bubble, 0.0, "other stages' passes / vpp"),
            *_once_terms(last, overlap),
        ),
        slowest_stage=slowest,
        compute_seconds=tuple(
            number * each.compute + each.optimizer + each.other for each in stages
        ),
    )


def _microbatch_terms(stage: StageSeconds, number: int) -> tuple[TimeTerm, ...]:
    """What a stage spends on every one of its microbatches."""
    formula = "microbatches * layers of the slowest stage"
    return (
        TimeTerm("compute", "compute", number * stage.compute, 0.0, formula),
        TimeTerm(
            "sequence_parallel_collectives",
            "exposed_tp_communication",
            number * stage.tp,
            0.0,
            formula,
        ),
        TimeTerm("expert_all_to_all", "exposed_ep_communication", number * stage.ep, 0.0, formula),
        TimeTerm(
            "context_parallel_ring",
            "exposed_cp_communication",
            number * stage.cp,
            number * stage.cp_hidden,
            formula,
        ),
        TimeTerm(
            "stage_boundaries",
            "exposed_pp_communication",
            number * stage.pp,
            0.0,
            "microbatches * 2 messages * chunks",
        ),
    )


def _once_terms(stage: StageSeconds, overlap: Overlap) -> tuple[TimeTerm, ...]:
    """What a stage spends once a step."""
    reduce, gather = overlap.hidden(stage, stage.compute)
    return (
        TimeTerm(
            "gradient_reduce_scatter",
            "exposed_dp_communication",
            stage.reduce_gradients - reduce,
            reduce,
            "gradients of trainable dense over dp*cp, experts over edp",
        ),
        TimeTerm(
            "parameter_all_gather",
            "exposed_dp_communication",
            stage.gather_parameters - gather,
            gather,
            "2 B * trainable dense over dp*cp, experts over edp",
        ),
        TimeTerm("adam", "optimizer", stage.optimizer, 0.0, "30 B * optimizer elements / memory"),
        TimeTerm(
            "gradient_buffers", "other", stage.other, 0.0, "8 B * trainable parameters / memory"
        ),
    )
