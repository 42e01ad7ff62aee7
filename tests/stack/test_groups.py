"""The planner's rank groups are those that megatron-core's parallel_state makes."""

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.grids import GROUP_AXES, Grids
from stack.real_stack import RealStack

pytestmark = pytest.mark.stack

RANKS_ASKED = 6


def _all_grids(world_size: int) -> list[Grids]:
    """Every grid of a world whose sizes are powers of two."""
    powers = [2**power for power in range(world_size.bit_length())]
    names = ("tp", "cp", "pp", "ep", "etp")
    sizes = (dict(zip(names, values, strict=True)) for values in product(powers, repeat=5))
    return [
        Grids(world_size=world_size, **size)
        for size in sizes
        if world_size % (size["tp"] * size["cp"] * size["pp"]) == 0
        and world_size % (size["etp"] * size["ep"] * size["pp"]) == 0
    ]


@st.composite
def grids(draw: st.DrawFn) -> Grids:
    """Grids whose two factorings of a stage are drawn apart, of sizes that need not nest."""
    pp = draw(st.sampled_from([1, 2, 3, 4, 6]))
    stage = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24]))

    def divisor(of: int) -> int:
        return draw(st.sampled_from([size for size in range(1, of + 1) if of % size == 0]))

    tp, ep = divisor(stage), divisor(stage)
    cp, etp = divisor(stage // tp), divisor(stage // ep)
    return Grids(world_size=pp * stage, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)


def _assert_groups_equal(stack: RealStack, grid: Grids, ranks: list[int]) -> None:
    sizes = {name: getattr(grid, name) for name in ("tp", "cp", "pp", "ep", "etp")}
    real = stack.rank_groups(grid.world_size, ranks, **sizes)
    for name in GROUP_AXES:
        ours = [grid.group_of(name, rank) for rank in ranks]

        assert ours == real[name], (grid, name)


def test_groups_of_every_rank_equal_parallel_states(stack: RealStack) -> None:
    """All ranks of forty layouts of 8 and 16 GPUs, drawn once and for all."""
    layouts = random.Random(0).sample(_all_grids(8) + _all_grids(16), 40)
    for grid in layouts:
        _assert_groups_equal(stack, grid, list(range(grid.world_size)))


def test_groups_equal_parallel_states_in_large_worlds(stack: RealStack) -> None:
    """A few ranks of layouts of 64 to 1024 GPUs."""
    shuffle = random.Random(1)
    for world_size in (64, 256, 1024):
        for grid in shuffle.sample(_all_grids(world_size), 4):
            _assert_groups_equal(stack, grid, shuffle.sample(range(world_size), RANKS_ASKED))


@given(grid=grids(), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_groups_equal_parallel_states_whatever_the_sizes(
    stack: RealStack, grid: Grids, seed: int
) -> None:
    """Sizes of three and of six too, and grids that do not nest."""
    ranks = random.Random(seed).sample(range(grid.world_size), min(RANKS_ASKED, grid.world_size))
    _assert_groups_equal(stack, grid, ranks)
