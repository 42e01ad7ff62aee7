"""One process: its GPU, and collectives with all others, timed."""

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import (  # type: ignore[attr-defined]  # not in its stubs
    PrefixStore,
    TCPStore,
)

BYTES_ON = {"cuda": 64 * 2**20, "cpu": 2**20}
WARM_UP = 3
ROUNDS = 5
TIMEOUT = timedelta(seconds=45)


def timed(call: Callable[[], object], device: str) -> float:
    """Seconds of one call, the slowest rank's mean, after some to warm up."""
    for _ in range(WARM_UP):
        call()
    _synchronize(device)
    dist.barrier()
    start = time.perf_counter()
    for _ in range(ROUNDS):
        call()
    _synchronize(device)
    seconds = torch.tensor([(time.perf_counter() - start) / ROUNDS], device=device)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Rank and local rank are the two arguments."""
    rank, local_rank = map(int, sys.argv[1:3])
    address, _, port = os.environ["PREFLIGHT_STORE"].rpartition(":")
    world_size = int(os.environ["NNODES"]) * int(os.environ["NPROC_PER_NODE"])
    device = os.environ.get("PREFLIGHT_DEVICE", "cuda")
    store = TCPStore(address, int(port), is_master=False, timeout=TIMEOUT)
    gpu: dict[str, object] = {}
    if device == "cuda":
        torch.cuda.set_device(local_rank)
        free, total = torch.cuda.mem_get_info()
        gpu = {"name": torch.cuda.get_device_name(), "free_bytes": free, "total_bytes": total}
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=PrefixStore("ranks", store),
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
    )
    elements = BYTES_ON[device] // 4 // world_size * world_size
    sent = torch.ones(elements, device=device)
    received = torch.empty_like(sent)
    measured = {
        "bytes": 4 * elements,
        "all_reduce_seconds": timed(lambda: dist.all_reduce(sent), device),
        "all_to_all_seconds": timed(lambda: dist.all_to_all_single(received, sent), device),
    }
    gpus: list[dict[str, object]] = [{} for _ in range(world_size)]
    dist.all_gather_object(gpus, gpu)
    if rank == 0:
        store.set("measured", json.dumps({**measured, "gpus": gpus}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
