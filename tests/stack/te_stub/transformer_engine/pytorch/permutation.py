"""Sorting tokens by expert and back, as `--moe_permute_fusion` calls it.

`row_id_map` is opaque to the caller. Here it is [2, rows]: expert and token of each permuted row.
"""

import torch


def moe_permute(
    inp: torch.Tensor, routing_map: torch.Tensor, num_out_tokens: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of `inp` [tokens, hidden] by expert, and the row_id_map."""
    row_id_map = routing_map.bool().T.nonzero().T
    return inp[row_id_map[1]], row_id_map


def moe_permute_with_probs(
    inp: torch.Tensor,
    probs: torch.Tensor,
    routing_map: torch.Tensor,
    num_out_tokens: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `moe_permute`'s rows, the probability of each row, and the row_id_map."""
    rows, row_id_map = moe_permute(inp, routing_map)
    return rows, probs[row_id_map[1], row_id_map[0]], row_id_map


def moe_unpermute(
    inp: torch.Tensor,
    row_id_map: torch.Tensor,
    merging_probs: torch.Tensor | None = None,
    restore_shape: torch.Size | None = None,
    pad_offsets: None = None,
) -> torch.Tensor:
    """Return each token's rows added up, weighted by [tokens, experts] `merging_probs`."""
    assert restore_shape is not None
    if merging_probs is not None:
        inp = inp * merging_probs[row_id_map[1], row_id_map[0]].unsqueeze(-1).to(inp.dtype)
    out = torch.zeros(restore_shape, dtype=inp.dtype, device=inp.device)
    return out.index_add(0, row_id_map[1], inp)


def moe_sort_chunks_by_index(
    inp: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor
) -> torch.Tensor:
    """Return the chunks of `inp`, `split_sizes[i]` rows each, in the order of `sorted_index`."""
    chunks = torch.split(inp, split_sizes.tolist())
    return torch.cat([chunks[i] for i in sorted_index.tolist()])


def moe_sort_chunks_by_index_with_probs(
    inp: torch.Tensor, probs: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and their probabilities, sorted alike."""
    return (
        moe_sort_chunks_by_index(inp, split_sizes, sorted_index),
        moe_sort_chunks_by_index(probs, split_sizes, sorted_index),
    )
