"""Seconds that an optimizer on the host adds to a step."""

from planner.cluster import Gpu
from planner.precision import FP32, StateBytes

# Of the bandwidth of a GPU's PCIe link, what copies of pinned tensors reach; not measured.
ASSUMED_PCIE_FRACTION = 0.8

# Of a node's memory, what the processor's Adam of one rank reaches beside those of the other GPUs:
# two sockets of eight channels of DDR5-4800 are 614 GB/s, shared by 8 ranks, less a half; not
# measured.
ASSUMED_HOST_BYTES_PER_SECOND = 38e9

# Adam reads and writes weights and two moments, and reads gradients, in fp32.
_TOUCHED_BYTES = 7 * FP32


def offload_seconds(elements: float, fraction: float, states: StateBytes, gpu: Gpu) -> float:
    """Gradients to the host, the step there, weights back, one after another, for so many states of
    a rank (megatron-core 0.16.1, megatron/core/optimizer/cpu_offloading/hybrid_optimizer.py: step;
    ms-swift has no argument to overlap them)."""
    moved = elements * states.transferred
    link = gpu.pcie_bandwidth_bytes_per_second * ASSUMED_PCIE_FRACTION
    touched = elements * fraction * _TOUCHED_BYTES
    return moved / link + touched / ASSUMED_HOST_BYTES_PER_SECOND
