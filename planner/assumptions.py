"""What a plan assumes: what was not given, and what nobody measured or published."""

from collections.abc import Collection, Iterator

from planner.cluster import Assumption, Cluster
from planner.collectives import assumed_family
from planner.communicators import (
    ASSUMED_CHANNELS_BETWEEN_HOSTS,
    ASSUMED_RINGS_OF_MORE_THAN_TWO,
    KERNELS_BYTES,
)
from planner.efficiency import efficiency_assumptions
from planner.host_memory import ASSUMED_PROCESS_BYTES
from planner.layout import Layout
from planner.memory import (
    ASSUMED_RESUMED_STATES,
    CUDA_CONTEXT_BYTES,
    HOLES_OF_EXPERT_ROWS,
    HOLES_OF_LOGITS,
    HOLES_OF_WORKING_MEMORY,
    HOLES_OF_WORKING_MEMORY_LORA,
    WAITING_WEIGHT_GRADIENTS,
)
from planner.offload import ASSUMED_HOST_BYTES_PER_SECOND, ASSUMED_PCIE_FRACTION
from planner.precision import ASSUMED_PINNED_ROUNDING
from planner.problem import Problem
from planner.releases import out_of_range
from planner.saving import ASSUMED_DISK_BYTES_PER_SECOND
from planner.settings import Settings
from planner.verdict import MARGIN_FRACTION
from planner.workload import TunerType

# The defaults of the command line: id, unit and what to know about it.
_DEFAULTS = {
    "topology": ("", "no --topology given: H100 hosts"),
    "tuner_type": ("", "no --tuner-type given: full fine-tuning in bf16"),
    "seq_length": ("tokens", "no --seq-length given: packed to this length"),
    "global_batch_size": (
        "packs",
        "no --global-batch-size given; few microbatches make pipelines look bad",
    ),
    "routing_imbalance": (
        "busiest rank / mean",
        "no --routing-imbalance given: fit and times are those at this load; with random weights "
        "ranks got up to 1.13 times their share, and 1.52 in one layer of one microbatch",
    ),
}


def assumptions(problem: Problem, layout: Layout, given: Collection[str]) -> list[Assumption]:
    """All assumptions of a layout of a problem; `given` names the flags that the user gave."""
    return [
        *_defaults(problem, given),
        *_placement(problem, given),
        *_stack(problem),
        *_guesses(problem, layout),
    ]


def _defaults(problem: Problem, given: Collection[str]) -> Iterator[Assumption]:
    workload = problem.workload
    values = {
        "topology": problem.cluster.name,
        "tuner_type": workload.tuner_type.value,
        "seq_length": workload.seq_length,
        "global_batch_size": workload.global_batch_size,
        "routing_imbalance": workload.routing_imbalance,
    }
    for name, (unit, source) in _DEFAULTS.items():
        if name not in given and (name != "routing_imbalance" or problem.model.is_moe):
            yield Assumption(id=name, value=values[name], unit=unit, source=source)
    if workload.mean_document_tokens is None:
        yield Assumption(
            id="mean_document_tokens",
            value=workload.document_tokens,
            unit="tokens",
            source="not known: attention is counted as if each pack were one document",
        )
    if workload.packing:
        yield Assumption(
            id="pack_fill",
            value=1.0,
            unit="of seq_length",
            source="real tokens are counted as if they filled the packs; ms-swift pads documents "
            "to multiples of 2*cp and packs to multiples of tp*cp, no further: packs with fewer "
            "tokens take less time too",
        )
    yield from _of_the_model(problem)


def _of_the_model(problem: Problem) -> Iterator[Assumption]:
    workload, longest = problem.workload, problem.model.max_position_embeddings
    if workload.seq_length > longest:
        yield Assumption(
            id="seq_length.beyond_model",
            value=longest,
            unit="tokens",
            source="the model's longest document; longer ones need rope scaling",
        )
    if problem.model.vision is not None:
        yield Assumption(
            id="vision.images",
            value=0,
            unit="images",
            source="the vision tower's weights are counted on the first stage, its activations and "
            "time are not",
        )
    left = problem.model.mtp_num_layers - workload.mtp_num_layers
    if left > 0:
        yield Assumption(
            id="mtp_num_layers",
            value=workload.mtp_num_layers,
            unit="layers",
            source=f"ms-swift's default: {left} MTP layer of the checkpoint is not trained; "
            "--mtp-num-layers trains it",
        )


def _placement(problem: Problem, given: Collection[str]) -> Iterator[Assumption]:
    """What the default keeps from hosts that NVLink does not join."""
    domain = problem.cluster.nvlink_domain_size
    if "placement" not in given and domain < problem.cluster.gpus_per_node:
        joined = f"groups of {domain}" if domain > 1 else "no GPUs"
        yield Assumption(
            id="placement",
            value=problem.workload.placement.value,
            unit="",
            source=f"no --placement given: NVLink joins {joined} here; --placement any lets TP "
            "and EP use PCIe",
        )


def _stack(problem: Problem) -> Iterator[Assumption]:
    stack = problem.stack
    for name in stack.assumed:
        yield Assumption(
            id=f"stack.{name}", value=getattr(stack, name), unit="", source=stack.sources[name]
        )
    for found in out_of_range(stack.ms_swift, stack.mcore_bridge, stack.megatron_core):
        yield Assumption(
            id=f"stack.out_of_range.{found.package}",
            value=found.version,
            unit="",
            source=f"assumed to work outside of {found.permitted} ({found.permitted.source})",
        )


def _of_memory(problem: Problem, layout: Layout) -> Iterator[Assumption]:
    """The constants that device use has beside what follows from sources."""
    yield Assumption(
        id="memory.margin",
        value=MARGIN_FRACTION,
        unit="of device use",
        source="kept free by a plan that fits: nine of ten errors on ranks that nobody "
        "had looked at",
    )
    yield from _of_the_allocator(problem, layout)
    yield Assumption(
        id="memory.cuda_context",
        value=CUDA_CONTEXT_BYTES,
        unit="bytes",
        source="it grows with the kernels that are loaded: 0.70 to 0.86 in a process of 25 ranks "
        "on an H100, 0.82 to 0.93 in one of 35 on an H200, half of them below 0.86",
    )
    if problem.reads_optimizer:
        yield Assumption(
            id="memory.resumed",
            value=ASSUMED_RESUMED_STATES,
            unit="of the moments",
            source="reserved once more in steps after resuming: one run, not explained",
        )


def _of_the_allocator(problem: Problem, layout: Layout) -> Iterator[Assumption]:
    """What it reserves beside what is allocated, of those holes that a layout has."""
    lora = problem.workload.tuner_type is TunerType.LORA
    holes = [
        (
            "allocator_holes",
            HOLES_OF_WORKING_MEMORY_LORA if lora else HOLES_OF_WORKING_MEMORY,
            "of working memory",
            "fitted to the reserved memory of 42 measured ranks, as all holes are",
        )
    ]
    if problem.model.is_moe:
        rows = "whose number always changes"
        holes.append(("holes_of_expert_rows", HOLES_OF_EXPERT_ROWS, "of the experts' rows", rows))
    if layout.pp > 1:
        received = "a neighbour's tensors are received where they were"
        holes.append(("holes_of_logits", HOLES_OF_LOGITS, "of a last stage's logits", received))
    if not (problem.stack.apex or lora):
        unit, stream = "of a layer's weight gradients", "they wait for the stream of DDP"
        holes.append(("waiting_gradients", WAITING_WEIGHT_GRADIENTS, unit, stream))
    for name, value, unit, source in holes:
        yield Assumption(id=f"memory.{name}", value=value, unit=unit, source=source)


def _of_nccl(cluster: Cluster) -> Iterator[Assumption]:
    """What of its communicators does not follow from its source."""
    if cluster.num_gpus > 1:
        yield Assumption(
            id="memory.nccl_kernels",
            value=KERNELS_BYTES,
            unit="bytes",
            source="kernels of NCCL and their local memory, beside the communicators that are "
            "counted one by one: fitted to ranks of two GPUs",
        )
    if cluster.num_gpus > 2:
        yield Assumption(
            id="memory.nccl_rings",
            value=ASSUMED_RINGS_OF_MORE_THAN_TWO,
            unit="rings",
            source="a communicator of more than two ranks connects as much, with its tree or "
            "NVLink SHARP; those of one and two were measured",
        )
    if cluster.num_nodes > 1:
        yield Assumption(
            id="memory.nccl_channels",
            value=ASSUMED_CHANNELS_BETWEEN_HOSTS,
            unit="channels",
            source="of a communicator with whole hosts, as others log of H100s; half as many "
            "with a rank of each",
        )


def _of_settings(settings: Settings) -> Iterator[Assumption]:
    """What nobody measured of the settings."""
    if settings.fp8_format is not None:
        yield Assumption(
            id="memory.fp8",
            value=settings.fp8_recipe,
            unit="",
            source="read off the source of Transformer Engine 2.12, not measured; times are those "
            "of bf16",
        )
    if settings.optimizer_cpu_offload:
        yield Assumption(
            id="memory.pinned",
            value=ASSUMED_PINNED_ROUNDING,
            unit="of what is pinned",
            source="torch rounds pinned tensors up to a power of two",
        )
        yield Assumption(
            id="offload.pcie",
            value=ASSUMED_PCIE_FRACTION,
            unit="fraction of the link",
            source="copies of pinned tensors, not measured",
        )
        yield Assumption(
            id="offload.host",
            value=ASSUMED_HOST_BYTES_PER_SECOND,
            unit="bytes/s",
            source="a rank's share of the node's memory under Adam, not measured",
        )


def _guesses(problem: Problem, layout: Layout) -> Iterator[Assumption]:
    cluster = problem.cluster
    yield from _of_settings(problem.settings)
    yield from cluster.assumptions
    for family in dict.fromkeys(link.efficiency for link in cluster.links.values()):
        source = assumed_family(family)
        if source is not None:
            yield Assumption(id=f"collectives.{family}", value=family, unit="", source=source)
    yield from efficiency_assumptions(cluster.gpu)
    yield from _of_memory(problem, layout)
    yield from _of_nccl(cluster)
    yield Assumption(
        id="memory.host_process",
        value=ASSUMED_PROCESS_BYTES,
        unit="bytes",
        source="host memory of one training process; what it saves is copied into pinned memory, "
        "half as much again: two runs were measured, and fit is decided by it too",
    )
    yield Assumption(
        id="saving.disk",
        value=ASSUMED_DISK_BYTES_PER_SECOND,
        unit="bytes/s",
        source="of a node that writes its part of a checkpoint: yours may differ tenfold",
    )
