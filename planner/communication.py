"""Seconds of the collectives of a layout: of its layers, between stages, of data parallelism."""

from typing import NamedTuple

from planner.cluster import Cluster
from planner.collectives import Collective, collective_seconds
from planner.dispatchers import Dispatch, allgather, alltoall, flex
from planner.layer_seconds import LayerSeconds
from planner.layer_shape import BF16, LayerShape
from planner.parameters import RankParameters
from planner.placement import GroupPlacement
from planner.step_time import Overlap, exposed_seconds

# Of the exchange of experts beside another microbatch, the most that is hidden. Qwen3-30B-A3B on 16
# H100, with experts on all of them (NVIDIA-NeMo/Megatron-Bridge, skills/): 37 % of communication
# beside products and attention in a profile with HybridEP (nemo-mbridge-perf-moe-hardware-configs
# @228e9a3); plain all-to-all, from 41.25 to 31.31 s a step, which is half of what is predicted of
# its exchange (nemo-mbridge-perf-expert-parallel-overlap @58241a1). Between the two.
MOST_HIDDEN_EXPERTS = 0.45


class Exchanged(NamedTuple):
    """Seconds of the collectives of one layer and microbatch by cause, in one direction: what is
    seen of them, and what compute covers."""

    tp: float
    ep: float
    cp: float
    tp_hidden: float
    ep_hidden: float
    cp_hidden: float

    @property
    def exposed(self) -> float:
        """Seconds that are seen."""
        return self.tp + self.ep + self.cp


class LayerCommunication(NamedTuple):
    """Collectives of one layer and microbatch; those that recomputation runs again are backward."""

    forward: Exchanged
    backward: Exchanged


class _Cover(NamedTuple):
    """Seconds of compute, in one direction, that communication may hide behind."""

    attention: float
    feed_forward: float
    shared_experts: float


class Communication:
    """Seconds of the collectives of a layout on a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        groups: dict[str, GroupPlacement],
        overlap: Overlap,
        dispatcher: str = "alltoall",
    ) -> None:
        self._cluster, self._groups = cluster, groups
        self._overlap, self.dispatcher = overlap, dispatcher

    def seconds(self, collective: Collective, num_bytes: float, group: str) -> float:
        """Seconds of one collective of a group."""
        return collective_seconds(collective, num_bytes, self._groups[group], self._cluster)

    def layer(
        self,
        shape: LayerShape,
        compute: LayerSeconds,
        *,
        attention_again: bool,
        feed_forward_again: bool,
        shared_experts_again: bool,
    ) -> LayerCommunication:
        """Collectives of a layer whose parts backward may run forward again.

        Sequence parallelism: all-gather into and reduce-scatter out of each tensor-parallel block
        forward; backward the same reversed, and the input gathered again for its weight gradient
        (Korthikanti et al., arXiv 2205.05198, section 4.2.2).
        Experts: see `planner.dispatchers`.
        Context parallelism: keys and values go round the ring while attention runs, with their
        gradients backward.
        """
        hidden_bytes = shape.tokens * shape.hidden * BF16
        gather = self.seconds("all_gather", hidden_bytes, "tp")
        scatter = self.seconds("reduce_scatter", hidden_bytes, "tp")
        blocks = 1 if not shape.is_moe or shape.shared_ffn else 0
        again = attention_again + blocks * feed_forward_again
        experts, ring = self._experts(shape), self._ring(shape)
        beside = self._beside(shape) and not shared_experts_again
        shared = _share_of_shared_experts(shape) if beside else 0.0
        attention, feed_forward = compute.attention, compute.feed_forward
        forward = _Cover(
            attention=attention.forward,
            feed_forward=feed_forward.forward,
            shared_experts=shared * feed_forward.forward,
        )
        backward = _Cover(
            attention=attention.backward + attention_again * forward.attention,
            feed_forward=feed_forward.backward + feed_forward_again * forward.feed_forward,
            shared_experts=shared * feed_forward.backward
            + feed_forward_again * forward.shared_experts,
        )
        return LayerCommunication(
            forward=self._exchanged(
                (1 + blocks) * (gather + scatter), experts.forward, ring, forward
            ),
            backward=self._exchanged(
                (1 + blocks) * (2 * gather + scatter) + again * (gather + scatter),
                experts.backward + feed_forward_again * experts.forward,
                (2 + attention_again) * ring,
                backward,
            ),
        )

    def _exchanged(self, tp: float, ep: float, ring: float, cover: _Cover) -> Exchanged:
        """What is seen of the communication of one direction."""
        compute = cover.attention + cover.feed_forward
        seen_tp, seen_ep = tp, max(0.0, ep - cover.shared_experts)
        if self._overlap.tp_comm:
            seen_tp = exposed_seconds(tp, compute, self._groups["tp"].size)
        if self._overlap.expert_parallel:
            seen_ep = max((1 - MOST_HIDDEN_EXPERTS) * ep, ep - compute)
        seen_ring = max(0.0, ring - cover.attention)
        return Exchanged(
            tp=seen_tp,
            ep=seen_ep,
            cp=seen_ring,
            tp_hidden=tp - seen_tp,
            ep_hidden=ep - seen_ep,
            cp_hidden=ring - seen_ring,
        )

    def _beside(self, shape: LayerShape) -> bool:
        """Whether shared experts run beside the exchange, on a stream of their own: only with the
        all-to-all (megatron-core 0.16.1, transformer_config.py:1090)."""
        return self._overlap.shared_expert and self.dispatcher == "alltoall" and shape.is_moe

    def _experts(self, shape: LayerShape) -> Dispatch:
        if not shape.is_moe:
            return Dispatch(forward=0.0, backward=0.0)
        etp, ranks = self._groups["etp"].size, self._groups["etp_ep"].size
        if self.dispatcher == "alltoall":
            return alltoall(shape, self.seconds, etp, ranks)
        if self.dispatcher == "allgather":
            return allgather(shape, self.seconds, ranks)
        return flex(self.dispatcher, shape, self._groups["etp_ep"], etp, self._cluster)

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


def _share_of_shared_experts(shape: LayerShape) -> float:
    """Of the matrix products of a sparse layer's feed-forward part."""
    shared = shape.shared_ffn * shape.tokens
    return shared / (shared + shape.expert_ffn * shape.routed_rows) if shared else 0.0
