"""Passes are simulated in the order in which megatron-core's schedules run them."""

import pytest

from planner.schedule import Schedule
from stack.real_stack import RealStack

pytestmark = pytest.mark.stack

# Stages, chunks a stage, microbatches, microbatches of a chunk that follow one another.
SCHEDULES = [
    (2, 1, 4, 2),
    (4, 1, 2, 4),
    (4, 1, 9, 4),
    (2, 2, 4, 2),
    (4, 2, 4, 4),
    (4, 2, 8, 4),
    (4, 3, 11, 6),
    (3, 2, 7, 4),
]


@pytest.mark.parametrize("sizes", SCHEDULES, ids=str)
def test_passes_are_in_the_order_of_megatron_core(
    stack: RealStack, sizes: tuple[int, int, int, int]
) -> None:
    pp, vpp, microbatches, group = sizes
    schedule = Schedule(
        num_stages=pp, num_virtual_stages=vpp, num_microbatches=microbatches, group=group
    )
    for stage in range(pp):
        ran = stack.call(
            "pass_order",
            num_stages=pp,
            num_virtual_stages=vpp,
            num_microbatches=microbatches,
            group=group,
            stage=stage,
        )

        assert [tuple(each) for each in ran] == schedule.order(stage)
