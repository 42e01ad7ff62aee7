"""Writes the peaks of a process when it ends, into the folder that MEASURE_PEAKS names.

With this folder on PYTHONPATH every Python process of a measured command does so; nothing of the
command itself is changed. Bytes, by `resource` and by torch's allocator where the process used it.
"""

import atexit
import json
import os
import resource
import sys
from pathlib import Path


def _write() -> None:
    torch = sys.modules.get("torch")
    used_gpu = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    peaks = {
        "argv": " ".join(sys.orig_argv)[-200:],
        "host_resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "gpu_allocated": torch.cuda.max_memory_allocated() if torch and used_gpu else None,
        "gpu_reserved": torch.cuda.max_memory_reserved() if torch and used_gpu else None,
    }
    Path(os.environ["MEASURE_PEAKS"], f"{os.getpid()}.json").write_text(json.dumps(peaks))


if "MEASURE_PEAKS" in os.environ:
    atexit.register(_write)
