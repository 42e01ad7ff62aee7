"""Packs as ms-swift's collator hands them to the trainer, of random tokens."""

from collections.abc import Iterator
from typing import Any

import torch


def packs(arguments: Any, vocab_size: int, documents_per_pack: int) -> Iterator[dict[str, Any]]:
    """Endless micro-batches on the CPU: `micro_batch_size` packs of `seq_length` tokens in one row.

    Shapes: (1, micro_batch_size * seq_length), int64. The documents of a pack are equally long;
    their borders are where position_ids start again (ms-swift 4.6.0, template/base.py:2062-2110).
    Raises ValueError: the run does not pack, or the documents do not divide as CP needs it.
    """
    if not arguments.padding_free:
        raise ValueError("only packed batches are measured: padding_free is off")
    length, rest = divmod(arguments.seq_length, documents_per_pack)
    if rest or length % (2 * arguments.context_parallel_size):
        raise ValueError(f"{documents_per_pack} documents do not divide a pack")
    documents = documents_per_pack * arguments.micro_batch_size
    position_ids = torch.arange(length).repeat(documents)[None]
    generator = torch.Generator(device="cpu").manual_seed(arguments.seed)
    while True:
        tokens = torch.randint(0, vocab_size, position_ids.shape, generator=generator)
        yield {"input_ids": tokens, "labels": tokens.clone(), "position_ids": position_ids.clone()}
