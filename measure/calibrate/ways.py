"""What was predicted of the moment in which memory ran out, who held it, and ways out of it.

A step needs far more than a rank has while it is built or loads: what ran out then is no matter of
activations, and often not of the run at all.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from measure.calibrate.out_of_memory import OutOfMemory, When
from planner.memory import CUDA_CONTEXT_BYTES
from planner.plan import Reason
from planner.units import GIB
from planner.workload import Load

# Of a GPU, held by nobody that is known: less is what contexts and communicators differ by.
ASSUMED_UNTOLD_BYTES = 1.0 * GIB

# The field of a stage's memory_bytes that says what is allocated at a moment.
_ALLOCATED = {
    When.BUILDING: "after_build",
    When.LOADING: "loading",
    When.RESUMING: "resuming",
    When.SAVING: "saving",
}


def predicted_bytes(memory: Mapping[str, Any], when: When) -> float:
    """Device use of a stage at a moment, of its `memory_bytes`; that of training, which stays
    reserved while a checkpoint is written, for all that comes after the first step."""
    training = float(memory["device_used"])
    allocated = memory.get(_ALLOCATED.get(when, ""))  # plans of before have not all of them
    if allocated is None:
        return training
    used = float(allocated) + CUDA_CONTEXT_BYTES + float(memory["nccl"])
    return max(used, training) if when is When.SAVING else used


def others_bytes(error: OutOfMemory, nccl: float) -> float | None:
    """What others than this process held of the GPU, which has `nccl` bytes of communicators; None:
    the error does not say."""
    if error.capacity_bytes is None or error.free_bytes is None or error.allocated_bytes is None:
        return None
    own = error.allocated_bytes + (error.unallocated_bytes or 0.0) + CUDA_CONTEXT_BYTES + nccl
    others = error.capacity_bytes - error.free_bytes - own
    return others if others > ASSUMED_UNTOLD_BYTES else 0.0


def fits_alone(error: OutOfMemory, others: float | None) -> bool:
    """Whether others held memory without which the GPU would have had enough."""
    if not others or error.needed_bytes is None or error.capacity_bytes is None:
        return False
    return error.needed_bytes - others <= error.capacity_bytes


def ways_out(error: OutOfMemory, others: float | None, load: Load) -> Iterator[Reason]:
    """What helps at a moment besides another layout; of a run that loads its weights so."""
    if others:
        yield Reason("calibrate.others", {"gib": others / GIB})
    if fits_alone(error, others):
        return
    if error.when is When.LOADING:  # of Hugging Face: a checkpoint is read otherwise
        yield Reason("calibrate.load_mcore")
    if error.when is When.RESUMING:
        yield Reason("calibrate.resume_without")
    if error.when is When.SAVING and load is Load.DIRECT:
        yield Reason("calibrate.save_mcore")
