"""`python -m measure.verify` where the CPU answers for torch.cuda; memory is always 0 then."""

import logging
import os
import warnings


def enter_stack() -> None:
    """Let the CPU answer for torch.cuda. To be called before the stack is imported."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # would look for a C compiler
    warnings.filterwarnings("ignore")  # those of the stack, not of this project
    import cuda_on_cpu
    import torch

    torch.set_num_threads(1)
    cuda_on_cpu.install("cpu")
    from measure.verify import peers

    peers.enter_world(1, 0)  # before the stack is imported
    cuda_on_cpu.answer_megatron_core()
    logging.disable(logging.WARNING)


def main() -> None:
    """Measure the rows of a file."""
    enter_stack()
    from measure.verify.__main__ import main as verify

    verify()


if __name__ == "__main__":
    main()
