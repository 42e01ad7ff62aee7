"""Runs `megatron export` again and again in the same processes, on the CPU: imports take seconds.

    torchrun --nproc-per-node N conversions_on_cpu.py JOBS.json

JOBS.json holds an argument list a conversion. Each enters the real entry of ms-swift; between two
conversions nothing but the parallel groups of megatron-core is taken down.
"""

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # would look for a C compiler
    warnings.filterwarnings("ignore")  # those of the stack, not of this project
    import cuda_on_cpu
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    cuda_on_cpu.install("cpu")
    new_group = dist.new_group
    dist.init_process_group("gloo")
    dist.new_group = lambda *args, **options: new_group(
        *args, **{**options, "backend": "gloo", "pg_options": None}
    )
    cuda_on_cpu.answer_megatron_core()
    from mcore_bridge.bridge import gpt_bridge
    from mcore_bridge.utils import StreamingSafetensorSaver
    from megatron.core import mpu
    from swift.megatron import megatron_export_main

    add_tensor = StreamingSafetensorSaver.add_tensor

    def add_copy(saver: Any, name: str, tensor: Any) -> None:
        # from a GPU every tensor comes as a copy; here two names would share one
        add_tensor(saver, name, None if tensor is None else tensor.clone())

    StreamingSafetensorSaver.add_tensor = add_copy
    logging.disable(logging.WARNING)
    for argv in json.loads(Path(sys.argv[1]).read_text("utf-8")):
        megatron_export_main(argv)
        dist.barrier()
        mpu.destroy_model_parallel()
        gpt_bridge.EP_PP_GROUP = None


if __name__ == "__main__":
    main()
