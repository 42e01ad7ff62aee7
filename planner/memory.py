"""Memory of the worst rank of a stage.

A peak is the maximum over moments of the sum of the terms alive then.
"""

from dataclasses import dataclass

from planner.checkpoint_memory import Between, checkpoint_bytes, remade_bytes
from planner.layer_shape import BF16
from planner.memory_terms import IN_LAST_STAGE, RUNNING_MOMENTS, TERMS
from planner.stage_shape import Moment, StageShape
from planner.units import GIB

RUNNING = tuple(moment for moment in Moment if moment in RUNNING_MOMENTS)
# Moments at which all microbatches in flight are kept: at no other does the schedule add more.
MOST_IN_FLIGHT = frozenset({Moment.LAYER, Moment.LOSS, Moment.HEAD})
LEVELS = ("pipeline", "batch", "recompute", "schedule")

_BYTES_AT = {
    (level, moment): tuple(
        term.bytes for term in TERMS if term.level == level and moment in term.moments
    )
    for level in LEVELS
    for moment in Moment
}

# When a stage is fullest that has more while it saves than in steps, and what it has beside terms.
SAVING, SAVED_EXPERTS = "saving", "experts_in_one_piece"

_KEPT = frozenset(term.id for term in TERMS if Moment.STEADY in term.moments)
_STATIC = frozenset(term.id for term in TERMS if term.level == "pipeline")

# What torch's allocator reserves beside what is allocated at the peak, with expandable segments:
# holes that no later tensor fits in, and memory that waits for another stream. Fitted to the
# reserved memory of the 42 ranks of benchmarks/memory that may be fitted to; its page has errors.
HOLES_OF_WORKING_MEMORY = 0.05  # of all but weights, gradients, optimizer states and workspaces
HOLES_OF_WORKING_MEMORY_LORA = 0.12  # whose many sums of layer and adapter come and go
HOLES_OF_EXPERT_ROWS = 1.2  # of the hidden states that experts get, whose number always changes
HOLES_OF_LOGITS = 0.3  # of them in bf16, on the last of several stages: between their forward and
# their backward pass a neighbour's tensors are received into the place that they left
# Of a layer's weight gradients, where they are tensors of their own: they are used on the stream of
# DDP too, and cannot be given away until it has come to them (megatron-core 0.18.1,
# pipeline_parallel/schedules.py:211 warns of it).
WAITING_WEIGHT_GRADIENTS = 0.5

# Steps after resuming reserve as much more as the states that loading a checkpoint made once more:
# a rank with 0.43 GiB of moments, 0.37 of them of experts, had 0.36 and 0.37 GiB more reserved when
# two steps were done again (benchmarks/launch). Measured once, and not explained: by the sources
# nothing holds these states when the first step begins.
ASSUMED_RESUMED_STATES = 1.0

# Device use less reserved of one process without NCCL. It grows as kernels are loaded: of ranks
# that ran one after another in a process, 25 on an H100 had 0.70 GiB at first and 0.86 at last
# (benchmarks/memory/fresh_h100.jsonl), 35 on an H200 0.82 to 0.93, half of them less than this
# (benchmarks/steptime/one_rank_h200.jsonl). A run loads the kernels of one model. NCCL's were
# fitted beside this number.
CUDA_CONTEXT_BYTES = int(0.86 * GIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Memory of a stage's worst rank, in bytes. `terms` are those alive at `peak_moment`, which in
    a layer is `layer_moment`, an id of planner.layer_moments. What ends in `_at_imbalance`, and
    reserved memory and device use, are at the routing imbalance at which fit is decided; the
    optimizer's step and what is there between steps do not depend on it. `nccl` are those of its
    rank's communicators; `loading`, `saving` and `resuming` are the moments of
    planner.checkpoint_memory. `device_used` is what fit is decided on, of steps or of saving;
    `device_used_resumed` is the same after resuming."""

    terms: dict[str, int]
    peak_moment: Moment
    layer_moment: str | None
    after_build: int
    steady: int
    peak_forward_backward: int
    peak_optimizer_step: int
    peak_allocated: int
    terms_at_imbalance: dict[str, int]
    peak_moment_at_imbalance: Moment
    layer_moment_at_imbalance: str | None
    peak_forward_backward_at_imbalance: int
    peak_allocated_at_imbalance: int
    peak_reserved: int
    nccl: int
    device_used: int
    loading: int
    saving: int
    resuming: int
    device_used_resumed: int
    usable: int

    @property
    def limit_moment(self) -> str:
        """When the stage is at its fullest at that imbalance: saving, a moment of a step, or an id
        of planner.layer_moments."""
        if self.saving > self.peak_reserved:
            return SAVING
        return self.layer_moment_at_imbalance or self.peak_moment_at_imbalance.value

    @property
    def limit_terms(self) -> dict[str, int]:
        """Bytes by term then; while it saves, those of the peak that stay between steps."""
        if self.limit_moment != SAVING:
            return self.terms_at_imbalance
        kept = {name: size for name, size in self.terms_at_imbalance.items() if name in _KEPT}
        return kept | {SAVED_EXPERTS: self.saving - self.steady}


def decided_saving_bytes(shape: StageShape) -> float:
    """Bytes allocated while a checkpoint is written, of what neither recomputation nor the schedule
    decides."""
    decided = sum(level_bytes(shape, level, Moment.STEADY) for level in LEVELS[:2])
    return decided + shape.exported_bytes


def saving_bytes(shape: StageShape, decided: float) -> float:
    """All bytes allocated then, from those that were decided before."""
    recompute = level_bytes(shape, "recompute", Moment.STEADY)
    return decided + recompute + level_bytes(shape, "schedule", Moment.STEADY)


def level_bytes(shape: StageShape, level: str, moment: Moment) -> float:
    """Bytes of the terms of one level that are alive at a moment."""
    total = 0.0
    for size in _BYTES_AT[level, moment]:
        total += size(shape)
    return total


def resumed_bytes(shape: StageShape) -> float:
    """What a rank has reserved besides, once it was resumed."""
    return ASSUMED_RESUMED_STATES * remade_bytes(shape)


def reserved_bytes(shape: StageShape, allocated_bytes: float, static_bytes: float) -> float:
    """What the allocator reserves of a rank with so many bytes allocated at its peak, of which
    those of the level "pipeline" are static."""
    fraction = HOLES_OF_WORKING_MEMORY_LORA if shape.lora else HOLES_OF_WORKING_MEMORY
    holes = fraction * (allocated_bytes - static_bytes) + HOLES_OF_EXPERT_ROWS * shape.rows_bytes
    if shape.num_stages > 1:
        holes += HOLES_OF_LOGITS * shape.logits * BF16
    return allocated_bytes + holes + WAITING_WEIGHT_GRADIENTS * shape.layer_gradients_bytes


def device_used(reserved: float, nccl: float) -> float:
    """Device memory that a process takes with so many bytes reserved at its peak, and those of its
    communicators."""
    return reserved + CUDA_CONTEXT_BYTES + nccl


def _moments(shape: StageShape) -> dict[Moment, dict[str, int]]:
    """Bytes of every term by moment."""
    found: dict[Moment, dict[str, int]] = {moment: {} for moment in Moment}
    for term in TERMS:
        size = round(term.bytes(shape))
        if size:
            for moment in term.moments:
                found[moment][term.id] = size
    return {moment: terms for moment, terms in found.items() if passes(shape, moment)}


def _totals(alive: dict[Moment, dict[str, int]]) -> dict[Moment, int]:
    return {moment: sum(terms.values()) for moment, terms in alive.items()}


def passes(shape: StageShape, moment: Moment) -> bool:
    """Whether the stage comes to a moment: only the last has a loss, the first an embedding."""
    if moment in IN_LAST_STAGE:
        return shape.is_last
    return moment is not Moment.EMBEDDING or shape.is_first


def stage_memory(
    shape: StageShape, imbalanced: StageShape, *, nccl: float, usable_bytes: int
) -> StageMemory:
    """Peaks of a stage; `imbalanced` is its shape at the workload's routing imbalance.

    Fit is decided on `device_used`: the CUDA context, NCCL, and reserved memory at that imbalance,
    or what saving has allocated where that is more. Loading has always less (tests hold it).
    """
    alive = _moments(shape)
    fuller = alive if imbalanced is shape else _moments(imbalanced)
    totals, at_imbalance = _totals(alive), _totals(fuller)
    running = [moment for moment in RUNNING if moment in totals]
    decisive = (*running, Moment.OPTIMIZER)
    peak_moment = max(decisive, key=totals.__getitem__)
    limit_moment = max(decisive, key=at_imbalance.__getitem__)
    fullest = fuller[limit_moment]
    static = sum(size for name, size in fullest.items() if name in _STATIC)
    reserved = reserved_bytes(imbalanced, at_imbalance[limit_moment], static)
    held = max(reserved, totals[Moment.STEADY] + shape.exported_bytes)
    between = Between(after_build=totals[Moment.BUILD], steady=totals[Moment.STEADY])
    return StageMemory(
        terms=alive[peak_moment],
        peak_moment=peak_moment,
        layer_moment=shape.layer_moment if peak_moment is Moment.LAYER else None,
        after_build=totals[Moment.BUILD],
        steady=totals[Moment.STEADY],
        peak_forward_backward=max(totals[moment] for moment in running),
        peak_optimizer_step=totals[Moment.OPTIMIZER],
        peak_allocated=totals[peak_moment],
        terms_at_imbalance=fullest,
        peak_moment_at_imbalance=limit_moment,
        layer_moment_at_imbalance=(
            imbalanced.layer_moment if limit_moment is Moment.LAYER else None
        ),
        peak_forward_backward_at_imbalance=max(at_imbalance[moment] for moment in running),
        peak_allocated_at_imbalance=at_imbalance[limit_moment],
        peak_reserved=round(reserved),
        nccl=round(nccl),
        device_used=round(device_used(held, nccl)),
        **checkpoint_bytes(shape, between),
        device_used_resumed=round(device_used(held + resumed_bytes(shape), nccl)),
        usable=usable_bytes,
    )
