"""The pipeline schedules: their order, their closed forms, and bounds that hold for any stages."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from planner.schedule import Passes, Schedule, in_flight_microbatches, simulated_seconds


@st.composite
def schedules(draw: st.DrawFn, *, longest: int = 5) -> Schedule:
    """Stages, chunks a stage, microbatches: as many as Megatron-Core takes, with interleaving."""
    pp = draw(st.integers(1, 6))
    vpp = draw(st.integers(1, 4)) if pp > 1 else 1
    group = draw(st.integers(pp, 2 * pp))
    microbatches = draw(st.integers(1, longest * pp))
    if vpp > 1:
        rest = draw(st.just(0) | st.integers(pp, 2 * pp).filter(lambda rest: rest < group))
        microbatches = draw(st.integers(1, longest)) * group + rest
    return Schedule(
        num_stages=pp, num_virtual_stages=vpp, num_microbatches=microbatches, group=group
    )


SECONDS = st.floats(0.5, 3)


@st.composite
def pipelines(draw: st.DrawFn, *, longest: int = 5) -> Passes:
    """Any stages and chunks under any schedule, with anything before and after."""
    schedule = draw(schedules(longest=longest))
    pp, vpp = schedule.num_stages, schedule.num_virtual_stages
    chunks = st.lists(SECONDS, min_size=vpp, max_size=vpp)
    stages = st.lists(chunks, min_size=pp, max_size=pp)
    once = st.lists(st.just(0.0) | SECONDS, min_size=pp, max_size=pp)
    return Passes(
        schedule=schedule,
        forward=draw(stages),
        backward=draw(stages),
        message=draw(st.sampled_from([0.0, 0.01, 1.0])),
        ready=draw(once),
        opening=draw(once),
        after=draw(once),
    )


def equal(schedule: Schedule, *, message: float = 0.0) -> Passes:
    """Stages of which each takes 1 s forward and 2 s backward of a microbatch."""
    pp, vpp = schedule.num_stages, schedule.num_virtual_stages
    nothing = [0.0] * pp
    return Passes(
        schedule=schedule,
        forward=[[1 / vpp] * vpp] * pp,
        backward=[[2 / vpp] * vpp] * pp,
        message=message,
        ready=nothing,
        opening=nothing,
        after=nothing,
    )


@given(schedules())
def test_equal_stages_wait_as_long_as_the_closed_form_says(schedule: Schedule) -> None:
    """(pp - 1) / vpp microbatches: Narayanan et al., arXiv 2104.04473, section 2.2."""
    pp, vpp = schedule.num_stages, schedule.num_virtual_stages
    if vpp == 1 or (schedule.group == pp and schedule.num_microbatches % pp == 0):
        expected = 3 * (schedule.num_microbatches + (pp - 1) / vpp)

        assert math.isclose(simulated_seconds(equal(schedule)), expected)


@given(pipelines())
def test_no_step_is_shorter_than_the_bound_that_ranks_it(passes: Passes) -> None:
    least, seconds = passes.least_seconds(), simulated_seconds(passes)
    for stage in range(passes.schedule.num_stages):
        once = passes.ready[stage] + passes.opening[stage] + passes.after[stage]
        assert passes.work(stage) + once <= least * (1 + 1e-9)

    assert least <= seconds * (1 + 1e-9)


@given(schedules())
def test_the_bound_of_equal_stages_is_what_they_take(schedule: Schedule) -> None:
    """So that few pipelines are simulated before the best one is known."""
    pp, vpp = schedule.num_stages, schedule.num_virtual_stages
    if vpp == 1 or (schedule.group == pp and schedule.num_microbatches % pp == 0):
        passes = equal(schedule)

        assert math.isclose(passes.least_seconds(), simulated_seconds(passes))


@given(pipelines(), st.data())
def test_nothing_that_gets_slower_makes_a_step_faster(passes: Passes, data: st.DataObject) -> None:
    """Nor longer by more than the change of it, for every microbatch."""
    name = data.draw(st.sampled_from(["forward", "backward", "ready", "opening", "after"]))
    stage = data.draw(st.integers(0, passes.schedule.num_stages - 1))
    by = data.draw(SECONDS)
    changed = [
        list(each) if isinstance(each, list) else each  # a copy of what is changed
        for each in getattr(passes, name)
    ]
    times = 1
    if isinstance(changed[stage], list):
        changed[stage][-1] += by
        times = passes.schedule.num_microbatches
    else:
        changed[stage] += by
    before = simulated_seconds(passes)
    after = simulated_seconds(replace(passes, **{name: changed}))

    assert before * (1 - 1e-9) <= after <= (before + times * by) * (1 + 1e-9)


@given(pipelines())
def test_messages_cost_no_time_but_what_is_waited_for(passes: Passes) -> None:
    free = simulated_seconds(replace(passes, message=0.0))
    taken = simulated_seconds(passes)
    sends = 2 * passes.schedule.num_stages * passes.schedule.num_passes

    assert free <= taken * (1 + 1e-9) <= (free + sends * passes.message) * (1 + 2e-9)
    if passes.schedule.num_stages == 1:
        assert taken == free


@given(pipelines(longest=30))
def test_a_schedule_that_repeats_itself_takes_what_all_of_it_does(passes: Passes) -> None:
    """Long schedules are cut short; run here without."""
    whole = run_passes(passes)

    assert math.isclose(simulated_seconds(passes), whole, rel_tol=1e-9)


def run_passes(passes: Passes) -> float:
    """The same, pass by pass in the order of every stage, of which nothing is cut."""
    schedule = passes.schedule
    last, stages = schedule.num_virtual_stages - 1, schedule.num_stages
    waiting = [schedule.order(stage) for stage in range(stages)]
    ahead = [min(schedule.warm_up(stage), schedule.num_passes) for stage in range(stages)]
    done = [0] * stages
    free = list(passes.ready)
    sent: dict[tuple[str, int, int, int], float] = {}
    while any(number < len(order) for number, order in zip(done, waiting, strict=True)):
        before = list(done)
        for stage, order in enumerate(waiting):
            while done[stage] < len(order):
                kind, chunk, microbatch = order[done[stage]]
                source = needed(kind, chunk, microbatch, stage, schedule)
                if source is not None and source not in sent:
                    break
                start = max(free[stage], sent[source] if source else 0.0)
                if done[stage] == 0:
                    start += passes.opening[stage]
                end = start + getattr(passes, kind)[stage][chunk]
                ends = (stages - 1, last) if kind == "forward" else (0, 0)
                outside = done[stage] < ahead[stage] or done[stage] >= len(order) - ahead[stage]
                blocks = (outside or last == 0) and (stage, chunk) != ends
                sent[kind, stage, chunk, microbatch] = end + passes.message
                free[stage] = end + passes.message if blocks else end
                done[stage] += 1
        assert done != before, "the schedule is stuck"
    return max(end + after for end, after in zip(free, passes.after, strict=True))


def needed(
    kind: str, chunk: int, microbatch: int, stage: int, schedule: Schedule
) -> tuple[str, int, int, int] | None:
    """The pass that a pass gets its input from; None: data, or its own stage's forward pass."""
    last_stage, last_chunk = schedule.num_stages - 1, schedule.num_virtual_stages - 1
    if kind == "forward":
        if stage > 0:
            return kind, stage - 1, chunk, microbatch
        return (kind, last_stage, chunk - 1, microbatch) if chunk > 0 else None
    if stage < last_stage:
        return kind, stage + 1, chunk, microbatch
    return (kind, 0, chunk + 1, microbatch) if chunk < last_chunk else None


@given(schedules())
def test_stages_keep_as_many_microbatches_as_the_schedule_has_in_flight(
    schedule: Schedule,
) -> None:
    for stage in range(schedule.num_stages):
        kept = most = 0
        for kind, _, _ in schedule.order(stage):
            kept += 1 if kind == "forward" else -1
            most = max(most, kept)
        counted = in_flight_microbatches(
            schedule.num_stages,
            schedule.num_virtual_stages,
            schedule.num_microbatches,
            stage,
            schedule.group,
        )

        assert counted * schedule.num_virtual_stages == most
