"""Ranks of `megatron sft` that begin with the stack imported: forks of a process that holds it.

Importing the stack takes 10 to 40 s a rank, more than the steps that are measured. The parent does
it once, and must not touch CUDA: a fork of a process that did cannot use it.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

POLL_SECONDS, END_SECONDS = 0.2, 10.0
STACK = (
    "transformer_engine.pytorch",
    "megatron.core.models.gpt",
    "mcore_bridge.bridge.gpt_bridge",
    "swift.dataset.packing",
    "swift.megatron.pipelines",
    "swift.megatron.trainers",
)
# Asked of the driver's library, not of CUDA: CUDA that was asked cannot be used after a fork.
ASK_NVML = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# As `megatron sft` sets them: by torchrun, and by ms-swift 4.6.0 (cli/_megatron/sft.py:5).
OF_A_LAUNCH = {"OMP_NUM_THREADS": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}


class CudaIsInUseError(Exception):
    """Importing the stack began to use CUDA: forks could not."""


def import_stack(environment: Mapping[str, str]) -> None:
    """Import what `megatron sft` does, with an environment that is read at import.

    Raises:
        CudaIsInUseError: forks of this process could not use the GPUs.
    """
    os.environ.update({**ASK_NVML, **OF_A_LAUNCH, **environment})
    for name in STACK:
        import_module(name)
    _main()
    if import_module("torch").cuda.is_initialized():
        raise CudaIsInUseError("the stack uses CUDA when it is imported")


def _main() -> Callable[[], None]:
    """What `megatron sft` calls in each rank; ms-swift imports it when it is asked for."""
    main: Callable[[], None] = import_module("swift.megatron").megatron_sft_main
    return main


def start(words: Sequence[str], ranks: int, port: int, folder: Path) -> list[int]:
    """Processes that train by the words after `megatron sft`; each prints into `folder`."""
    return [_fork(words, rank, ranks, port, folder) for rank in range(ranks)]


def _fork(words: Sequence[str], rank: int, ranks: int, port: int, folder: Path) -> int:
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        log = os.open(folder / f"log{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        own |= {"GROUP_RANK": 0, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in own.items()}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        sys.argv = ["sft", *words]
        _main()()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        # No handler that the parent registered may run here, and no thread be waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(processes: Sequence[int], deadline: float) -> list[int | None]:
    """Exit statuses; at the deadline, or when one has failed, the others are ended.

    None is the status of a process that had to be ended.
    """
    statuses: dict[int, int] = {}
    while time.time() < deadline and len(statuses) < len(processes) and not any(statuses.values()):
        statuses |= _ended(set(processes) - set(statuses))
        time.sleep(POLL_SECONDS)
    late = set(processes) - set(statuses)
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
        for process in late:
            os.killpg(process, number)
        end = time.time() + seconds
        while late and time.time() < end:
            late -= set(_ended(late))
            time.sleep(POLL_SECONDS)
    return [statuses.get(process) for process in processes]


def _ended(processes: set[int]) -> dict[int, int]:
    """Those that have ended, and their exit statuses."""
    found = {}
    for process in processes:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            found[process] = os.waitstatus_to_exitcode(status)
    return found
