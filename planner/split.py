"""Split decoder layers over pipeline stages: solved, not enumerated.

First balance: the cost of the most expensive chunk is the least possible. Then, of those splits,
with one chunk a stage memory: the one whose fullest chunk is least full. With several, the most
even one: chunks that may take as long as the slowest would otherwise come together on a stage.
Chunk c of C holds the layers after those of
chunk c-1; chunk c lies on stage c % pp, as Megatron-Core interleaves them (megatron-core 0.16.1,
megatron/core/transformer/transformer_layer.py: get_transformer_layer_offset).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

from planner.layout import PipelineSplit

_TOLERANCE = 1e-9  # sums of floats in another order differ by less


# By which a chunk must be faster for layers that divide to be split otherwise: layouts of one and
# of several chunks a stage then start from the same split, and share what is known of it.
_WORTH_A_SPLIT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCosts:
    """What the split balances.

    `first` is the embedding, `last` the final norm, output layer, loss and MTP. A layer's static
    bytes (weights, gradients, optimizer states) are there once, its activations once for every
    microbatch in flight on its stage: pp - stage.
    """

    layer_seconds: tuple[float, ...]
    first_seconds: float
    last_seconds: float
    layer_static_bytes: tuple[float, ...]
    layer_activation_bytes: tuple[float, ...]
    first_bytes: float
    last_bytes: float


def best_split(
    costs: SplitCosts, num_stages: int, num_virtual_stages: int = 1
) -> PipelineSplit | None:
    """The even split, if there is one and none is faster by more than `_WORTH_A_SPLIT`; else that
    of `split_layers`."""
    even = even_split(len(costs.layer_seconds), num_stages, num_virtual_stages)
    if even and not faster_exists(costs, even, 1 - _WORTH_A_SPLIT):
        return even
    return split_layers(costs, num_stages, num_virtual_stages)


def split_layers(
    costs: SplitCosts, num_stages: int, num_virtual_stages: int = 1
) -> PipelineSplit | None:
    """The best contiguous split with at least one layer a chunk; None when there are too few
    layers.

    Shapes: `num_stages * num_virtual_stages` chunks over `len(costs.layer_seconds)` layers. Of
    equal splits the last chunk gets as few layers as it can.
    """
    num_chunks = num_stages * num_virtual_stages
    num_layers = len(costs.layer_seconds)
    if num_layers < num_chunks:
        return None
    seconds = _Segments(costs.layer_seconds, costs.first_seconds, costs.last_seconds, num_chunks)
    least, _ = _least_bottleneck(seconds, None, num_chunks, num_layers)
    limit = (seconds, least)
    if num_virtual_stages > 1:
        _, ends = _least_bottleneck(seconds, limit, num_chunks, num_layers, squares=True)
        return _from_ends(ends, num_stages, num_virtual_stages)
    fullness = _Segments(
        costs.layer_static_bytes,
        costs.first_bytes,
        costs.last_bytes,
        num_chunks,
        (costs.layer_activation_bytes, num_stages),
    )
    _, ends = _least_bottleneck(fullness, limit, num_chunks, num_layers)
    return _from_ends(ends, num_stages, num_virtual_stages)


def faster_exists(costs: SplitCosts, split: PipelineSplit, part: float) -> bool:
    """Whether the slowest chunk of any split takes no more than a part of the slowest of this one:
    quickly known, as chunks that take all that they may leave least to those after them."""
    sums = [0.0, *accumulate(costs.layer_seconds)]
    num_layers, num_chunks = len(costs.layer_seconds), split.num_stages * split.num_virtual_stages
    extra = [0.0] * num_chunks
    extra[0] += costs.first_seconds
    extra[-1] += costs.last_seconds
    chunks = [chunk for virtual in zip(*split.chunks, strict=True) for chunk in virtual]
    limit = part * max(
        sums[end] - sums[first] + more for (first, end), more in zip(chunks, extra, strict=True)
    )
    first = 0
    for chunk, more in enumerate(extra):
        end = bisect_right(sums, sums[first] + limit - more) - 1
        end = min(end, num_layers - (num_chunks - chunk - 1))
        if end <= first:
            return False
        first = end
    return first == num_layers


def even_split(
    num_layers: int, num_stages: int, num_virtual_stages: int = 1
) -> PipelineSplit | None:
    """The split that Megatron-Core makes when nothing is said; None where the layers do not
    divide."""
    num_chunks = num_stages * num_virtual_stages
    if num_layers % num_chunks:
        return None
    size = num_layers // num_chunks
    ends = [size * (chunk + 1) for chunk in range(num_chunks)]
    return _from_ends(ends, num_stages, num_virtual_stages)


def _from_ends(ends: list[int], num_stages: int, num_virtual_stages: int) -> PipelineSplit:
    bounds = list(zip([0, *ends[:-1]], ends, strict=True))
    return PipelineSplit(
        tuple(
            tuple(bounds[virtual * num_stages + stage] for virtual in range(num_virtual_stages))
            for stage in range(num_stages)
        )
    )


class _Segments:
    """Costs of chunks; `weighted` are costs once per microbatch in flight, and the stages."""

    def __init__(
        self,
        layer: Sequence[float],
        first: float,
        last: float,
        num_chunks: int,
        weighted: tuple[Sequence[float], int] | None = None,
    ) -> None:
        per_microbatch, num_stages = weighted or ([0.0] * len(layer), 1)
        self._sums = []
        for chunk in range(num_chunks):
            weight = num_stages - chunk % num_stages
            costs = [once + weight * each for once, each in zip(layer, per_microbatch, strict=True)]
            self._sums.append([0.0, *accumulate(costs)])
        self._extra = [0.0] * num_chunks
        self._extra[0] += first
        self._extra[-1] += last

    def ending_at(self, chunk: int, end: int) -> tuple[float, list[float]]:
        """`total` and `sums`: layers [first, end) cost `total - sums[first]` as chunk `chunk`.

        They cost less as first grows.
        """
        sums = self._sums[chunk]
        return sums[end] + self._extra[chunk], sums


def _least_bottleneck(
    segments: _Segments,
    limit: tuple[_Segments, float] | None,
    num_chunks: int,
    num_layers: int,
    *,
    squares: bool = False,
) -> tuple[float, list[int]]:
    """Least maximum of `segments` over all splits (that keep `limit`), or least sum of their
    squares, and the ends of the chunks.

    Dynamic programming over (chunk, end): best[end] is the least of the chunks so far.
    """
    best = [0.0] + [inf] * num_layers
    choices: list[list[int]] = []
    for chunk in range(num_chunks):
        following = [inf] * (num_layers + 1)
        choice = [0] * (num_layers + 1)
        for end in range(chunk + 1, num_layers - (num_chunks - chunk - 1) + 1):
            total, sums = segments.ending_at(chunk, end)
            least, chosen, lowest = inf, 0, chunk
            if limit:
                most = limit[1] * (1 + _TOLERANCE)
                limited, limited_sums = limit[0].ending_at(chunk, end)
                lowest = max(chunk, bisect_left(limited_sums, limited - most, 0, end))
            for first in range(end - 1, lowest - 1, -1):
                cost = total - sums[first]
                if squares:
                    cost *= cost
                    value = best[first] + cost
                else:
                    value = best[first] if best[first] > cost else cost
                if value < least * (1 - _TOLERANCE):
                    least, chosen = value, first
                if cost > least:
                    break  # costs grow as `first` falls
            following[end], choice[end] = least, chosen
        best = following
        choices.append(choice)
    ends, end = [], num_layers
    for choice in reversed(choices):
        ends.append(end)
        end = choice[end]
    return best[num_layers], ends[::-1]
