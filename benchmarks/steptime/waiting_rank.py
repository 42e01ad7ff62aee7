"""A rank of `megatron sft` that imports the stack and waits until it may go on.

    RANK=0 TURNS_FOLDER=... python benchmarks/steptime/waiting_rank.py WORDS...

WORDS are those after `megatron sft`; the environment is what torchrun gives a rank.
"""

import sys
from importlib import import_module

from turns import May, Said, await_turn, say

STACK = (
    "transformer_engine.pytorch",
    "megatron.core.models.gpt",
    "mcore_bridge.bridge.gpt_bridge",
    "swift.dataset.packing",
    "swift.megatron.pipelines",
    "swift.megatron.trainers",
)


def main() -> None:
    """Train as ms-swift 4.6.0 does in each rank (cli/_megatron/sft.py:5)."""
    for name in STACK:
        import_module(name)
    train = import_module("swift.megatron").megatron_sft_main
    say(Said.IMPORTED)
    await_turn(May.BUILD)
    train()


if __name__ == "__main__":
    sys.argv[0] = "sft"
    main()
