"""Lets ms-swift's own commands run on a machine without a GPU.

With MOE_PLANNER_STACK_ON=cpu in the environment and this folder on PYTHONPATH, each worker that
`megatron` or `swift` starts gets torch.cuda answered by the CPU, and gloo where it asks for NCCL.
The commands themselves, the launcher and every other Python process stay as they are. Experts with
tensor parallelism cannot train so: gloo gathers tensors of equal length only.
"""

import os
import sys
from pathlib import Path


def _is_worker() -> bool:
    """Whether this process runs a script of ms-swift, not its console command or torchrun."""
    return any("swift/cli/" in word for word in sys.orig_argv) and (
        "RANK" in os.environ or "torch.distributed.run" not in sys.orig_argv
    )


def _run_on_cpu() -> None:
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # would look for a C compiler
    import cuda_on_cpu
    import group_record
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    cuda_on_cpu.install("cpu")
    init_process_group, new_group = dist.init_process_group, dist.new_group

    def init_gloo(backend: object = None, **options: object) -> None:
        init_process_group("gloo", **options)

    def new_gloo_group(*args: object, **options: object) -> object:
        group = new_group(*args, **{**options, "backend": "gloo", "pg_options": None})
        if options.get("backend") == "gloo":
            group_record.asked_for_gloo.add(id(group))
        return group

    dist.init_process_group, dist.new_group = init_gloo, new_gloo_group
    if "MOE_PLANNER_RECORD_GROUPS" in os.environ:
        group_record.install(Path(os.environ["MOE_PLANNER_RECORD_GROUPS"]))
    cuda_on_cpu.answer_megatron_core()


if os.environ.get("MOE_PLANNER_STACK_ON") == "cpu" and _is_worker():
    _run_on_cpu()
