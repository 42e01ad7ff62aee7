"""What other software could do for a layout: said beside a plan, never ranked."""

from dataclasses import replace

from planner.candidates import ASSUMED_TIE_FRACTION
from planner.dispatchers import elsewhere
from planner.evaluate import Evaluator
from planner.layout import Layout
from planner.plan import Reason


def possible_elsewhere(evaluator: Evaluator, layout: Layout, seconds: float) -> list[Reason]:
    """The reasons that name what would make a step of a layout, of so many seconds, faster."""
    if layout.ep == 1:
        return []
    found = []
    for option in elsewhere():
        if option.dispatcher in evaluator.problem.stack.dispatchers and not option.hides_experts:
            continue
        other = evaluator
        if option.hides_experts:
            if not _can_hide_experts(layout):
                continue
            hiding = replace(evaluator.overlap, expert_parallel=True, shared_expert=False)
            other = evaluator.with_overlap(hiding)
        changed = replace(layout, dispatcher=option.dispatcher)
        faster = other.batch(changed).step_seconds(layout.recompute)
        if faster < (1 - ASSUMED_TIE_FRACTION) * seconds:  # below, the search tells nothing apart
            values = {
                "what": option.what,
                "seconds": float(f"{faster:.3g}"),
                "percent": round(100 * (1 - faster / seconds)),
                "flag": option.flag,
            }
            found.append(Reason("reason.possible_elsewhere", values))
    return found


def _can_hide_experts(layout: Layout) -> bool:
    """Whether Megatron-Core exchanges experts of a layout beside another microbatch: not with
    pipelines whose stages have one chunk, nor where the exchange is recomputed (megatron-core
    0.18.1, megatron/core/transformer/transformer_config.py:2399-2429)."""
    again = layout.recompute.granularity == "full" or layout.recompute.feed_forward(is_moe=True)
    return not again and (layout.pp == 1 or layout.vpp > 1)
