"""What NCCL takes of a GPU: the communicators that a rank of a layout makes, and bytes of each.

A process group gets a communicator at its first collective, one of a single rank too. Which groups
speak was recorded from the real packages on CPUs, with Qwen3-MoE and once with GLM-4.5
(tests/stack/test_end_to_end.py, benchmarks/memory/speaking_groups.jsonl); what MTP adds was read in
megatron-core. What each takes follows from the source of NCCL 2.28.9, and was found to be so of two
ranks over NVLink: benchmarks/memory/README.md. Sources are ms-swift 4.6.0, megatron-core 0.18.1,
NCCL 2.28.9.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from planner.cluster import NETWORK, NVLINK, Cluster
from planner.placement import GroupPlacement, place_ranks
from planner.problem import Problem
from planner.units import KIB, MIB

# Every allocation, however small, has a page of its own (src/include/alloc.h: ncclCuMemAlloc):
# three a channel (src/channel.cc:42, 45, 56), two a communicator (src/init.cc:512, 514).
PAGE_BYTES = 2 * MIB
PAGES_OF_A_CHANNEL, PAGES_OF_A_COMMUNICATOR = 3, 2

# One channel over NVLink to a peer and from one: a page to send by, and buffers to receive in of
# 4 MiB (Simple), 4.7 (LL128) and 0.5 (LL) in whole pages (src/transport/p2p.cc:347, 409).
SENT_BYTES, RECEIVED_BYTES = 2 * MIB, 10 * MIB
CONNECTION_BYTES = SENT_BYTES + RECEIVED_BYTES
# Over a network those buffers are at both ends of a ring (src/transport/net.cc:872), and messages
# share 16 chunks a channel in each direction (src/transport/net.cc:647).
NETWORK_CONNECTION_BYTES = 10 * MIB + 10 * MIB
SHARED_BYTES_OF_A_CHANNEL = 2 * 16 * 128 * KIB

# As NCCL 2.28.9 logged of two H200s: of a rank alone, of a ring over NVLink, and of messages to
# each peer there, where all are used (src/enqueue.cc:2426). Eight H100s of a host log the same.
CHANNELS_ALONE, RING_CHANNELS, MESSAGE_CHANNELS = 64, 24, 32
# Messages to each peer of a group that NVLink does not join as a whole, inside hosts too
# (src/graph/paths.cc:826, 878).
MESSAGE_CHANNELS_ELSEWHERE = 2
# Channels of a group with eight ranks of each host, as others log of H100s; of one with a rank of
# each, or over PCIe, half as many.
ASSUMED_CHANNELS_BETWEEN_HOSTS = 16
# A third rank adds a tree's connections, or NVLink SHARP's buffers (src/transport/nvls.cc:336: 32
# MiB a rank), which come to as much as a ring's for eight. A tree of two connects as their ring
# does; SHARP was off where they were measured.
ASSUMED_RINGS_OF_MORE_THAN_TWO = 2


def _pages(channels: int) -> int:
    return PAGE_BYTES * (PAGES_OF_A_CHANNEL * channels + PAGES_OF_A_COMMUNICATOR)


ALONE_BYTES = _pages(CHANNELS_ALONE)  # of one rank
# Of two over NVLink that call collectives only, and what messages to a peer there take.
RING_BYTES = _pages(MESSAGE_CHANNELS) + RING_CHANNELS * CONNECTION_BYTES
MESSAGE_BYTES = MESSAGE_CHANNELS * CONNECTION_BYTES

# Beside communicators and the CUDA context, of a process that speaks with another rank: kernels of
# NCCL and their local memory. The one number that was fitted: benchmarks/memory/README.md.
KERNELS_BYTES = 316 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Communicator:
    """A communicator of a rank: `collective` ones connect a ring, `peers` are those that it
    exchanges messages with, `sources` those that it only gets messages from."""

    group: str
    place: GroupPlacement
    collective: bool = True
    peers: float = 0
    sources: int = 0

    @property
    def bytes(self) -> float:
        """Bytes of the device that NCCL takes for it."""
        place = self.place
        if place.size == 1:
            return ALONE_BYTES
        rings = int(self.collective) * (ASSUMED_RINGS_OF_MORE_THAN_TWO if place.size > 2 else 1)
        if place.link_class == NVLINK:
            channels = rings * RING_CHANNELS + self.peers * MESSAGE_CHANNELS
            received = float(self.sources * MESSAGE_CHANNELS * RECEIVED_BYTES)
            return _pages(MESSAGE_CHANNELS) + channels * CONNECTION_BYTES + received
        whole_hosts = place.link_class == NETWORK and place.ranks_per_island > 1
        channels = ASSUMED_CHANNELS_BETWEEN_HOSTS // (1 if whole_hosts else 2)
        near = min(self.peers, place.ranks_per_island - 1)
        sources = min(self.sources, place.ranks_per_island - 1 - near)
        received = near * CONNECTION_BYTES + sources * RECEIVED_BYTES
        size = _pages(channels) + MESSAGE_CHANNELS_ELSEWHERE * received
        if place.link_class != NETWORK:
            return size + rings * channels * CONNECTION_BYTES
        shared = SHARED_BYTES_OF_A_CHANNEL if self.peers + self.sources > near + sources else 0
        return size + channels * (rings * NETWORK_CONNECTION_BYTES + shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speakers:
    """The groups of a grid: those of `planner.grids.GROUP_AXES`, and what others follow from."""

    cluster: Cluster
    groups: Mapping[str, GroupPlacement]
    has_experts: bool
    copies_embedding: bool  # the last stage has it too
    biases_experts: bool = False  # routers have a bias that follows the load of experts
    saves: bool = True

    def stage(self, stage: int, *, interleaved: bool) -> Iterator[Communicator]:
        """All communicators of a rank of a stage, which has several chunks if interleaved."""
        yield from self.of_a_stage(stage, interleaved=interleaved)
        yield from self.of_all_stages()

    def of_a_stage(self, stage: int, *, interleaved: bool) -> Iterator[Communicator]:
        """Those that differ between stages."""
        groups, stages = self.groups, self.groups["pp"].size
        is_last = stage == stages - 1
        neighbours = min(2, stages - 1)
        if not interleaved and (stage == 0 or is_last):  # else the last hands on to the first
            neighbours = min(1, neighbours)
        # barriers, tensors between stages (swift/megatron/init.py:29), and what every rank tells
        # the first one as it saves (dist_checkpointing/strategies/state_dict_saver.py:141)
        messages = 0 if interleaved else neighbours
        world = self._of(self.cluster.num_gpus)
        sources = world.size - 1 - messages if self.saves and stage == 0 else 0
        yield Communicator(group="world", place=world, peers=messages, sources=sources)
        # numbers of tokens (distributed/finalize_model_grads.py:552), and shapes between stages
        # (pipeline_parallel/p2p_communication.py:257)
        yield Communicator(group="pp", place=groups["pp"], peers=neighbours)
        if interleaved:
            yield from self._pairs("pp", 1 if stages == 2 else 2)
        # losses, also of a rank alone (fusions/fused_cross_entropy.py:94)
        if groups["tp"].size > 1 or is_last:
            yield Communicator(group="tp", place=groups["tp"])
        # made alike as they are built (models/common/language_module/language_module.py)
        if self.copies_embedding and stages > 1 and (stage == 0 or is_last):
            yield Communicator(group="embedding", place=groups["pp"])

    def of_all_stages(self) -> Iterator[Communicator]:
        """Those that every rank has."""
        groups = self.groups
        # gradient norms (optimizer/clip_grads.py:136)
        yield Communicator(group="distributed_optimizer", place=self._of(self.cluster.num_gpus))
        # gradients and parameters
        yield Communicator(group="dp_cp", place=groups["dp_cp"])
        # logs (swift/megatron/utils/parallel_utils.py:15)
        yield Communicator(group="tp_pp", place=self._with_stages(groups["tp"]))
        if groups["cp"].size == 2:
            yield Communicator(group="cp", place=groups["cp"], collective=False, peers=1)
        elif groups["cp"].size > 2:  # Transformer Engine sends to the next without a batch
            yield from self._pairs("cp", 1)
        if self.has_experts:
            yield from self._of_experts()

    def _of_experts(self) -> Iterator[Communicator]:
        groups = self.groups
        # what routers log (transformer/moe/moe_logging.py:275, 283)
        tp_cp = self._of(groups["tp"].size * groups["cp"].size)
        yield Communicator(group="tp_cp", place=tp_cp)
        yield Communicator(group="dp", place=groups["dp"])
        # loads of experts, by which biases are updated, of LoRA too
        # (distributed/finalize_model_grads.py: _update_router_expert_bias)
        if self.biases_experts:
            whole_stage = self._of(self.cluster.num_gpus // groups["pp"].size)
            yield Communicator(group="tp_dp_cp", place=whole_stage)
        # numbers of tokens, and the tokens (transformer/moe/token_dispatcher.py)
        if groups["etp_ep"].size > 1:
            yield Communicator(group="etp_ep", place=groups["etp_ep"])
        if groups["etp"].size > 1:
            yield Communicator(group="etp", place=groups["etp"])
        ep = groups["ep"]
        if ep.size > 1:
            yield Communicator(group="ep", place=ep, collective=False, peers=ep.size - 1)
            # gradients and parameters of experts; without EP they are those of dp_cp
            yield Communicator(group="edp", place=groups["edp"])
        # weights of experts as they are saved in Hugging Face's form (mcore-bridge 1.6.5,
        # bridge/gpt_bridge.py:111), counted whether they are or not
        if self.saves and ep.size * groups["pp"].size > 1:
            yield Communicator(group="ep_pp", place=self._with_stages(ep))

    def _pairs(self, group: str, peers: int) -> Iterator[Communicator]:
        """Messages without a batch: torch gives each pair of ranks a communicator, of two."""
        pair = Communicator(
            group=f"{group}_pair", place=self.groups[group], collective=False, peers=peers / 2
        )
        yield from (pair, pair)

    def _of(self, size: int) -> GroupPlacement:
        """So many ranks that follow one another."""
        return place_ranks(self.cluster, self.cluster.num_gpus, size, 1)

    def _with_stages(self, inner: GroupPlacement) -> GroupPlacement:
        """The ranks of a group of each stage, of all stages."""
        pp = self.groups["pp"]
        if pp.size == 1:
            return inner
        fewest = inner.ranks_per_island * pp.ranks_per_island
        return replace(pp, size=inner.size * pp.size, ranks_per_island=fewest)


def speakers_of(problem: Problem, groups: Mapping[str, GroupPlacement]) -> Speakers:
    """Those of a grid of a problem."""
    model = problem.model
    return Speakers(
        cluster=problem.cluster,
        groups=groups,
        has_experts=model.is_moe,
        copies_embedding=model.tie_word_embeddings or problem.workload.mtp_num_layers > 0,
        biases_experts=model.moe is not None and model.moe.router_expert_bias,
    )


def nccl_bytes(speakers: Speakers, *, interleaved: bool) -> list[float]:
    """Bytes of the device that NCCL takes of a rank, by stage."""
    shared = sum(made.bytes for made in speakers.of_all_stages())
    shared += KERNELS_BYTES if speakers.cluster.num_gpus > 1 else 0

    def of(stage: int) -> float:
        made = speakers.of_a_stage(stage, interleaved=interleaved)
        return shared + sum(each.bytes for each in made)

    last = speakers.groups["pp"].size - 1
    if last == 0:
        return [of(0)]
    return [of(0), *[of(1)] * (last - 1), of(last)]  # those between are alike
