"""The pipeline schedules, against one that is run step by step."""

import math

from hypothesis import given
from hypothesis import strategies as st

from planner.schedule import in_flight_microbatches, pipeline_seconds

# A pass is ("forward" or "backward", model chunk of the stage, microbatch).
Pass = tuple[str, int, int]


def order(pp: int, vpp: int, microbatches: int, stage: int) -> list[Pass]:
    """Passes of a stage in the order of Megatron-Core's (interleaved) 1F1B.

    Microbatches go through the chunks in groups of pp. Source: megatron-core 0.16.1,
    megatron/core/pipeline_parallel/schedules.py: forward_backward_pipelining_with_interleaving.
    """
    forwards = [
        ("forward", chunk, microbatch)
        for group in range(0, microbatches, pp)
        for chunk in range(vpp)
        for microbatch in range(group, min(group + pp, microbatches))
    ]
    backwards = [("backward", vpp - 1 - chunk, microbatch) for _, chunk, microbatch in forwards]
    ahead = pp - stage - 1 if vpp == 1 else 2 * (pp - stage - 1) + (vpp - 1) * pp
    ahead = min(ahead, len(forwards))
    steady = [step for pair in zip(forwards[ahead:], backwards, strict=False) for step in pair]
    return [*forwards[:ahead], *steady, *backwards[len(forwards) - ahead :]]


def before(step: Pass, stage: int, pp: int, vpp: int) -> tuple[Pass, int] | None:
    """The pass, and its stage, that a pass waits for."""
    kind, chunk, microbatch = step
    if kind == "forward":
        if stage > 0:
            return step, stage - 1
        return ((kind, chunk - 1, microbatch), pp - 1) if chunk > 0 else None
    if stage < pp - 1:
        return step, stage + 1
    if chunk < vpp - 1:
        return (kind, chunk + 1, microbatch), 0
    return ("forward", chunk, microbatch), stage


def run(stage_seconds: list[float], vpp: int, microbatches: int) -> tuple[float, list[int]]:
    """Seconds of the schedule, and the most chunk passes that every stage keeps at a time.

    A third of a stage's time is forward, as if nothing else took time.
    """
    pp = len(stage_seconds)
    waiting = [order(pp, vpp, microbatches, stage) for stage in range(pp)]
    free, kept, most = [0.0] * pp, [0] * pp, [0] * pp
    done: dict[tuple[Pass, int], float] = {}
    while any(waiting):
        progress = False
        for stage in range(pp):
            while waiting[stage]:
                step = waiting[stage][0]
                needed = before(step, stage, pp, vpp)
                if needed is not None and needed not in done:
                    break
                start = max(free[stage], done[needed] if needed else 0.0)
                share = 1 / 3 if step[0] == "forward" else 2 / 3
                free[stage] = start + stage_seconds[stage] * share / vpp
                done[step, stage] = free[stage]
                kept[stage] += 1 if step[0] == "forward" else -1
                most[stage] = max(most[stage], kept[stage])
                waiting[stage].pop(0)
                progress = True
        assert progress, "the schedule is stuck"
    return max(free), most


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, int, int]:
    """Stages, chunks a stage, microbatches: a multiple of the stages with interleaving."""
    pp = draw(st.integers(1, 6))
    vpp = draw(st.integers(1, 4)) if pp > 1 else 1
    microbatches = draw(st.integers(1, 4)) * pp if vpp > 1 else draw(st.integers(1, 12))
    return pp, vpp, microbatches


@given(schedules())
def test_stages_keep_as_many_microbatches_as_the_schedule_has_in_flight(
    schedule: tuple[int, int, int],
) -> None:
    pp, vpp, microbatches = schedule
    _, most = run([1.0] * pp, vpp, microbatches)

    for stage in range(pp):
        assert in_flight_microbatches(pp, vpp, microbatches, stage) * vpp == most[stage]


@given(schedules())
def test_equal_stages_take_as_long_as_the_schedule(schedule: tuple[int, int, int]) -> None:
    """Bubble: (pp - 1) / vpp of a microbatch."""
    pp, vpp, microbatches = schedule
    seconds, _ = run([1.0] * pp, vpp, microbatches)

    assert math.isclose(pipeline_seconds([1.0] * pp, microbatches, vpp), seconds)


@given(schedules(), st.data())
def test_unequal_stages_take_no_longer_than_predicted(
    schedule: tuple[int, int, int], data: st.DataObject
) -> None:
    """The prediction lets no pass of the slowest stage fill its own waiting for others."""
    pp, vpp, microbatches = schedule
    seconds = st.integers(1, 9).map(float)
    stages = data.draw(st.lists(seconds, min_size=pp, max_size=pp))
    predicted = pipeline_seconds(stages, microbatches, vpp)
    taken, _ = run(stages, vpp, microbatches)

    assert microbatches * max(stages) <= taken * (1 + 1e-9)
    assert taken <= predicted * (1 + 1e-9)
