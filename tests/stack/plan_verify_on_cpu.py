"""`plan verify` where the CPU answers for torch.cuda, and says one size for all memory: that of
the environment's BYTES."""

import os
from typing import Any

from stack.verify_on_cpu import enter_stack


def _always(value: Any) -> Any:
    return lambda *_: value


def main() -> None:
    """Run the command with the words that this program was given."""
    enter_stack()
    import torch

    size = int(os.environ["BYTES"])
    for name in ("memory_allocated", "memory_reserved"):
        setattr(torch.cuda, name, _always(size))
        setattr(torch.cuda, f"max_{name}", _always(size))
    torch.cuda.mem_get_info = _always((0, size))
    from measure.verify import command

    command.check_machine = _always(None)  # for a GPU
    from planner.entry import main as plan

    plan()


if __name__ == "__main__":
    main()
