"""Seconds of the collectives of a layout: of its layers, between stages, of data parallelism."""

from dataclasses import dataclass

from planner.cluster import Cluster
from planner.collectives import Collective, collective_seconds
from planner.compute import PartSeconds
from planner.layer_shape import BF16, LayerShape
from planner.parameters import RankParameters
from planner.placement import GroupPlacement


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """Seconds of the collectives of one layer and microbatch by cause, in one direction."""

    tp: float
    ep: float
    cp: float
    cp_hidden: float

    @property
    def exposed(self) -> float:
        """Seconds that are seen."""
        return self.tp + self.ep + self.cp


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCommunication:
    """Collectives of one layer and microbatch; those that recomputation runs again are backward."""

    forward: Exchanged
    backward: Exchanged


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
        attention: PartSeconds,
        *,
        attention_again: bool,
        feed_forward_again: bool,
    ) -> LayerCommunication:
        """Collectives of a layer whose parts backward may run forward again; `attention` is what
        the ring runs beside.

        Sequence parallelism: all-gather into and reduce-scatter out of each tensor-parallel block
        forward; backward the same reversed, and the input gathered again for its weight gradient
        (Korthikanti et al., arXiv 2205.05198, section 4.2.2). Experts: dispatch and combine are an
        all-to-all each, forward and backward, as slow as the rank that receives most; with ETP the
        received rows are gathered and reduced.
        Context parallelism: keys and values go round the ring while attention runs, with their
        gradients backward.
        """
        hidden_bytes = shape.tokens * shape.hidden * BF16
        gather = self.seconds("all_gather", hidden_bytes, "tp")
        scatter = self.seconds("reduce_scatter", hidden_bytes, "tp")
        blocks = 1 if not shape.is_moe or shape.shared_ffn else 0
        again = attention_again + blocks * feed_forward_again
        ep, ring = self._experts(shape), self._ring(shape)
        covered = attention.forward
        forward = Exchanged(
            tp=(1 + blocks) * (gather + scatter),
            ep=ep,
            cp=max(0.0, ring - covered),
            cp_hidden=min(ring, covered),
        )
        covered = attention.backward + attention_again * attention.forward
        ring *= 2 + attention_again
        backward = Exchanged(
            tp=(1 + blocks) * (2 * gather + scatter) + again * (gather + scatter),
            ep=(1 + feed_forward_again) * ep,
            cp=max(0.0, ring - covered),
            cp_hidden=min(ring, covered),
        )
        return LayerCommunication(forward=forward, backward=backward)

    def _experts(self, shape: LayerShape) -> float:
        """Dispatch and combine of one direction."""
        if not shape.is_moe:
            return 0.0
        etp = self._groups["etp"].size
        rows = max(shape.sent_rows, shape.routed_rows / etp) * shape.hidden * BF16
        both = 2 * self.seconds("all_to_all", rows, "ep")
        both += self.seconds("all_gather", rows * etp, "etp")
        return both + self.seconds("reduce_scatter", rows * etp, "etp")

    def _ring(self, shape: LayerShape) -> float:
        """Keys and values once round the ring of context parallelism."""
        step = self.seconds("p2p", shape.tokens * shape.keys_and_values * BF16, "cp")
        return (self._groups["cp"].size - 1) * step

    def message(self, shape: LayerShape) -> float:
        """Hidden states of a microbatch from a stage to the next one."""
        return self.seconds("p2p", shape.sharded_tokens * shape.hidden * BF16, "pp")

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
