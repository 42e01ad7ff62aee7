"""The pipeline schedules of Megatron-Core, 1F1B and interleaved 1F1B, run pass by pass.

Source: megatron-core 0.16.1, megatron/core/pipeline_parallel/schedules.py: the order of
forward_backward_pipelining_without_interleaving and _with_interleaving (get_schedule_table), the
warm-up of get_pp_rank_microbatches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

# Times of a period and of the one before it differ by the same, but for the rounding of their sums.
_ROUNDING = 1e-10
# A schedule of more microbatches than so many groups, or warm-ups, may repeat itself.
_GROUPS_BEFORE_REPEATING = 6
_WARM_UPS_BEFORE_REPEATING = 3

# A pass is ("forward" or "backward", model chunk of the stage, microbatch).
Pass = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What decides the order of passes.

    `group` is microbatch_group_size_per_vp_stage, of which only interleaving knows.
    """

    num_stages: int
    num_virtual_stages: int
    num_microbatches: int
    group: int

    @property
    def interleaved(self) -> bool:
        """Whether a stage has several chunks."""
        return self.num_virtual_stages > 1

    @property
    def num_passes(self) -> int:
        """Forward passes of a stage, and as many backward."""
        return self.num_microbatches * self.num_virtual_stages

    def warm_up(self, stage: int) -> int:
        """Forward passes of a stage before its first backward one is due (the next forward pass
        still comes before it), if there are as many."""
        ahead = self.num_stages - stage - 1
        if not self.interleaved:
            return ahead
        return 2 * ahead + (self.num_virtual_stages - 1) * self.group

    @cached_property
    def in_flight(self) -> tuple[float, ...]:
        """Microbatches whose activations each stage keeps at the most, over all its chunks: those
        of the warm-up, and the one that is running.

        With interleaving the count is of chunks, each of 1 / num_virtual_stages of the stage's
        layers.
        """
        return tuple(
            min(self.warm_up(stage) + 1, self.num_passes) / self.num_virtual_stages
            for stage in range(self.num_stages)
        )

    def table(self) -> list[tuple[int, int]]:
        """(microbatch, chunk) of every forward pass, in order; of backward passes with the chunks
        counted from the last one."""
        group = self.group if self.interleaved else self.num_microbatches
        return [
            (microbatch, chunk)
            for first in range(0, self.num_microbatches, group)
            for chunk in range(self.num_virtual_stages)
            for microbatch in range(first, min(first + group, self.num_microbatches))
        ]

    def order(self, stage: int) -> list[Pass]:
        """All passes of a stage, in its order."""
        table, last = self.table(), self.num_virtual_stages - 1
        forwards: list[Pass] = [("forward", chunk, microbatch) for microbatch, chunk in table]
        backwards: list[Pass] = [("backward", last - chunk, each) for each, chunk in table]
        ahead = min(self.warm_up(stage), len(table))
        steady = zip(forwards[ahead:], backwards, strict=False)
        rest = backwards[len(table) - ahead :]
        return [*forwards[:ahead], *(each for pair in steady for each in pair), *rest]


def in_flight_microbatches(
    num_stages: int,
    num_virtual_stages: int,
    num_microbatches: int,
    stage: int,
    group: int | None = None,
) -> float:
    """`Schedule.in_flight` of a stage; `group` is by default the number of stages."""
    schedule = Schedule(
        num_stages=num_stages,
        num_virtual_stages=num_virtual_stages,
        num_microbatches=num_microbatches,
        group=group or num_stages,
    )
    return schedule.in_flight[stage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Seconds of what a step does on every stage of a pipeline.

    Shapes: `forward[stage][chunk]` and `backward[stage][chunk]`, of one microbatch; backward has
    recomputation in it. `message` is how long a tensor is under way between stages. A stage may
    begin `ready[stage]` after the step does, spends `opening[stage]` once its first input has come,
    and is done `after[stage]` later than its last pass.
    """

    schedule: Schedule
    forward: Sequence[Sequence[float]]
    backward: Sequence[Sequence[float]]
    message: float
    ready: Sequence[float]
    opening: Sequence[float]
    after: Sequence[float]

    def work(self, stage: int) -> float:
        """Seconds of all passes of a stage, messages apart."""
        once = sum(self.forward[stage]) + sum(self.backward[stage])
        return self.schedule.num_microbatches * once

    def least_seconds(self) -> float:
        """What a step takes at least.

        No stage begins before its first input comes, nor a backward pass before the microbatch was
        on every stage; a stage is then busy, and what it sends last goes back to the first stage.
        """
        schedule, message, last = self.schedule, self.message, len(self.ready) - 1
        begins = _latest(self.ready, self.opening, [chunks[0] + message for chunks in self.forward])
        sends = [message * (stage > 0) for stage in range(last + 1)]
        ends = _latest(self.after, sends, [chunks[0] for chunks in self.backward])
        turned = begins[last] + self.forward[last][0]
        for chunk in range(1, schedule.num_virtual_stages):
            turned += sum(chunks[chunk] + message for chunks in self.forward)
        least = 0.0
        for stage in range(last, -1, -1):
            sent, returned = self._blocking_sends(stage)
            ahead = self._first_forwards(stage)
            rest = self.work(stage) - ahead + returned * message
            least = max(
                least, max(begins[stage] + ahead + sent * message, turned) + rest + ends[stage]
            )
            turned += self.backward[stage][-1] + message
        return least

    def _first_forwards(self, stage: int) -> float:
        """Seconds of the passes that a stage does before its first backward one."""
        schedule, forward = self.schedule, self.forward[stage]
        number = min(schedule.warm_up(stage) + 1, schedule.num_passes)
        if not schedule.interleaved:
            return number * forward[0]
        group, seconds = schedule.group, 0.0
        rounds, number = divmod(number, group * len(forward))
        for each in forward:
            seconds += each * (rounds * group + min(group, number))
            number = max(0, number - group)
        return seconds

    def _blocking_sends(self, stage: int) -> tuple[int, int]:
        """Messages that a stage waits for itself, but for its last one: before its first backward
        pass, and later. At least."""
        schedule, is_last = self.schedule, stage == self.schedule.num_stages - 1
        ahead = schedule.warm_up(stage)
        if ahead >= schedule.num_passes:
            return 0, 0
        if schedule.interleaved:
            # of its last gradients the first stage sends few
            return ahead, ahead - 1 if stage > 0 else 0
        first = 0 if is_last else ahead + 1
        later = (0 if is_last else schedule.num_microbatches) - first
        return first, later + (schedule.num_microbatches - 1 if stage > 0 else 0)


def _latest(own: Sequence[float], more: Sequence[float], passed: Sequence[float]) -> list[float]:
    """By stage the later of its own and of what the stage before passes on, and more."""
    found: list[float] = []
    for stage, each in enumerate(own):
        latest = max(each, found[-1] + passed[stage - 1]) if found else each
        found.append(latest + more[stage])
    return found


def simulated_seconds(passes: Passes) -> float:
    """Seconds of a step: until the last stage is done with all that follows its passes.

    Where a schedule of fewer microbatches comes to repeat itself, the rest of them is added to it.
    """
    schedule = passes.schedule
    group = schedule.group if schedule.interleaved else 1
    ahead = -(-schedule.warm_up(0) // schedule.num_virtual_stages)
    short = max(_GROUPS_BEFORE_REPEATING * group, _WARM_UPS_BEFORE_REPEATING * ahead)
    while short < schedule.num_microbatches:
        left_out = (schedule.num_microbatches - short) // group
        fewer = Schedule(
            num_stages=schedule.num_stages,
            num_virtual_stages=schedule.num_virtual_stages,
            num_microbatches=schedule.num_microbatches - left_out * group,
            group=schedule.group,
        )
        run = _Run(passes, fewer)
        period = run.period()
        if period is not None:
            return run.seconds() + left_out * period
        short *= 4
    return _Run(passes, schedule).seconds()


class _Run:
    """A schedule, run.

    A pass begins when its stage is free and its input has come. Megatron-Core waits for every
    message that it sends, but with interleaving (overlap_p2p_comm, which ms-swift sets then) only
    for those of the warm-up and of what is left at the end (overlap_p2p_comm_warmup_flush is off).

    Time goes by ticks: stage s does its forward pass n + warm_up(s) and its backward pass n in
    tick n + skew(s). With interleaving a stage is one tick behind the next one, so that all inputs
    come from earlier ticks; without, the stages of a tick are run from the last one.
    """

    def __init__(self, passes: Passes, schedule: Schedule) -> None:
        self._passes, self._schedule = passes, schedule
        stages = range(schedule.num_stages)
        self._free = list(passes.ready)
        # When the output of a pass is at the stage that needs it.
        self._forward_sent = [[0.0] * schedule.num_passes for _ in stages]
        self._backward_sent = [[0.0] * schedule.num_passes for _ in stages]
        self._ahead = [schedule.warm_up(stage) for stage in stages]
        self._skew = [schedule.interleaved * (schedule.num_stages - 1 - each) for each in stages]
        table = schedule.table()
        at = {each: index for index, each in enumerate(table)}
        self._chunks = [chunk for _, chunk in table]
        # The pass, on the other end of the pipeline, that a pass of a later chunk waits for.
        self._before = [at.get((each, chunk - 1), -1) for each, chunk in table]
        first = self._skew[0] - self._ahead[0]
        for tick in range(min(first, 0), schedule.num_passes + self._skew[0]):
            for stage in reversed(stages):
                self._tick(stage, tick - self._skew[stage])

    def _tick(self, stage: int, number: int) -> None:
        """The forward pass and the backward pass of a stage in a tick."""
        total = self._schedule.num_passes
        index = number + self._ahead[stage]
        if 0 <= index < total:
            self._run_forward(stage, index, blocks=number < 0)
        if 0 <= number < total:
            self._run_backward(stage, number, blocks=index >= total)

    def _run_forward(self, stage: int, index: int, *, blocks: bool) -> None:
        chunk, last = self._chunks[index], self._schedule.num_stages - 1
        free = self._free[stage]
        if stage > 0:
            free = max(free, self._forward_sent[stage - 1][index])
        elif chunk > 0:
            free = max(free, self._forward_sent[last][self._before[index]])
        if index == 0:
            free += self._passes.opening[stage]
        free += self._passes.forward[stage][chunk]
        sent = free + self._passes.message
        self._forward_sent[stage][index] = sent
        to_nobody = stage == last and chunk == self._schedule.num_virtual_stages - 1
        waits = blocks or not self._schedule.interleaved
        self._free[stage] = sent if waits and not to_nobody else free

    def _run_backward(self, stage: int, index: int, *, blocks: bool) -> None:
        turn, last = self._chunks[index], self._schedule.num_stages - 1
        free = self._free[stage]
        if stage < last:
            free = max(free, self._backward_sent[stage + 1][index])
        elif turn > 0:
            free = max(free, self._backward_sent[0][self._before[index]])
        chunk = self._schedule.num_virtual_stages - 1 - turn
        free += self._passes.backward[stage][chunk]
        sent = free + self._passes.message
        self._backward_sent[stage][index] = sent
        to_nobody = stage == 0 and chunk == 0
        waits = blocks or not self._schedule.interleaved
        self._free[stage] = sent if waits and not to_nobody else free

    def seconds(self) -> float:
        """Until the last stage is done."""
        return max(map(sum, zip(self._free, self._passes.after, strict=True)))

    def period(self) -> float | None:
        """How much later every pass of a group is than the same one of the group before, where all
        of the last two groups in full swing are by the same; None where they are not.

        Passes wait for none that is further back than a group, and what they do with times is to
        take the latest and to add to it: from there on all is later by the same, group by group.
        """
        schedule = self._schedule
        group = schedule.group if schedule.interleaved else 1
        length = group * schedule.num_virtual_stages
        whole = schedule.num_microbatches // group * length
        end = whole - self._ahead[0] + self._skew[0]  # the tick after the last one of full groups
        if end - 2 * length < self._skew[0]:
            return None
        later = [
            sent[tick] - sent[tick - length]
            for stage in range(schedule.num_stages)
            for sent, ahead in (
                (self._forward_sent[stage], self._ahead[stage]),
                (self._backward_sent[stage], 0),
            )
            for tick in range(
                end - length - self._skew[stage] + ahead, end - self._skew[stage] + ahead
            )
        ]
        least, most = min(later), max(later)
        return most if most - least <= _ROUNDING * most else None
