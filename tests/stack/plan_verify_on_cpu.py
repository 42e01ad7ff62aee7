"""`plan verify` where the CPU answers for torch.cuda, and says one size for all memory."""

from typing import Any

from stack.verify_on_cpu import enter_stack

SIZE = 2**20  # bytes, of everything; nothing is left of a rank where it may be left


def _always(value: Any) -> Any:
    return lambda *_: value


def main() -> None:
    """Run the command with the words that this program was given."""
    enter_stack()
    import torch

    for name in ("memory_allocated", "memory_reserved"):
        setattr(torch.cuda, name, _always(SIZE))
        setattr(torch.cuda, f"max_{name}", _always(SIZE))
    torch.cuda.mem_get_info = _always((0, SIZE))
    from measure.verify import command

    command.check_machine = _always(None)  # for a GPU
    from planner.entry import main as plan

    plan()


if __name__ == "__main__":
    main()
