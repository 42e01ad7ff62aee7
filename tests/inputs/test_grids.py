"""The rank groups of both grids."""

from math import lcm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.grids import DENSE_AXES, EXPERT_AXES, GROUP_AXES, Grids

sizes = st.sampled_from([1, 2, 3, 4, 8])


@st.composite
def grids(draw: st.DrawFn) -> Grids:
    """Any sizes on the smallest world that both grids divide, times a data-parallel size."""
    tp, cp, pp, ep, etp = (draw(sizes) for _ in range(5))
    world_size = pp * lcm(tp * cp, etp * ep) * draw(st.integers(1, 3))
    return Grids(world_size=world_size, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)


@given(grids())
def test_both_identities_hold(grid: Grids) -> None:
    assert grid.tp * grid.cp * grid.dp * grid.pp == grid.world_size
    assert grid.etp * grid.ep * grid.edp * grid.pp == grid.world_size


@given(grids(), st.sampled_from(sorted(GROUP_AXES)))
def test_groups_partition_the_ranks_into_equal_parts(grid: Grids, name: str) -> None:
    groups = grid.groups(name)

    assert sorted(rank for group in groups for rank in group) == list(range(grid.world_size))
    assert {len(group) for group in groups} == {grid.size(name)}


@given(grids(), st.sampled_from(sorted(GROUP_AXES)))
def test_ranks_of_a_group_differ_only_along_its_axes(grid: Grids, name: str) -> None:
    axes = GROUP_AXES[name]
    grid_of_group = DENSE_AXES if set(axes) <= set(DENSE_AXES) else EXPERT_AXES
    for group in grid.groups(name):
        places = [grid.coordinates(rank) for rank in group]
        for axis in grid_of_group:
            if axis not in axes:
                assert len({place[axis] for place in places}) == 1
        assert len({tuple(place[axis] for axis in axes) for place in places}) == len(group)


@given(grids(), st.sampled_from(sorted(GROUP_AXES)), st.data())
def test_the_group_of_one_rank_is_the_one_that_holds_it(
    grid: Grids, name: str, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, grid.world_size - 1))

    assert grid.group_of(name, rank) in grid.groups(name)
    assert rank in grid.group_of(name, rank)


@given(grids(), st.data())
def test_the_stage_is_the_pipeline_coordinate(grid: Grids, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, grid.world_size - 1))

    assert grid.stage(rank) == grid.coordinates(rank)["pp"] == grid.group_of("pp", rank).index(rank)


def test_the_example_of_initialize_model_parallel() -> None:
    """16 GPUs, TP 2, PP 4: the groups in megatron-core's own docstring."""
    grid = Grids(world_size=16, tp=2, pp=4)

    assert grid.groups("tp") == tuple((rank, rank + 1) for rank in range(0, 16, 2))
    assert grid.groups("pp") == ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
    assert grid.groups("dp")[:4] == ((0, 2), (1, 3), (4, 6), (5, 7))


def test_experts_fold_over_tensor_context_and_data_parallel_ranks() -> None:
    """World 16, TP 2, PP 2, EP 4, ETP 1, as a run of megatron-core 0.16.1 printed for rank 5."""
    grid = Grids(world_size=16, tp=2, pp=2, ep=4)

    assert grid.group_of("tp", 5) == (4, 5)
    assert grid.group_of("pp", 5) == (5, 13)
    assert grid.group_of("dp", 5) == (1, 3, 5, 7)
    assert grid.group_of("ep", 5) == (4, 5, 6, 7)
    assert grid.group_of("edp", 5) == (1, 5)


@pytest.mark.parametrize("sizes", [{"tp": 3}, {"ep": 5}, {"pp": 2, "ep": 16}])
def test_a_world_that_a_grid_does_not_divide_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        Grids(world_size=16, **sizes)
