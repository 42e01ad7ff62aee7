"""What the allocator and the device say at a moment. All numbers are bytes."""

import torch


def start() -> None:
    """Let peaks be counted from here."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()


def read() -> dict[str, int]:
    """What is allocated and reserved now, and the most since `start`."""
    torch.cuda.synchronize()
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
    }


def device_used() -> int:
    """What is taken of the device by everybody: reserved memory, context and libraries."""
    free, total = torch.cuda.mem_get_info()
    return total - free
