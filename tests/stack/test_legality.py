"""What the planner calls legal is what the stack accepts, in both directions.

A layout without a broken rule is built on its first and last rank; one with a broken rule is
refused there. Rules that Megatron forgets claim nothing here: test_rules proves each.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings

from stack.candidates import Candidate, candidates
from stack.real_stack import RealStack, ask_all

pytestmark = pytest.mark.stack


@given(candidate=candidates())
@settings(max_examples=200)
def test_legal_layouts_are_accepted_and_illegal_ones_refused(
    stacks: dict[str, RealStack], short_folders: dict[str, Path], candidate: Candidate
) -> None:
    folder, world_size = short_folders[candidate.model], candidate.sizes.world_size

    def refusal(stack: RealStack) -> str | None:
        flags = candidate.flags(stack.megatron_core)
        ends = {0, world_size - 1}
        answers = [stack.refusal(folder, world_size, flags, rank=rank) for rank in ends]
        return next((answer for answer in answers if answer is not None), None)

    for version, refused in ask_all(stacks, refusal).items():
        broken = candidate.broken(version)
        if not broken:
            assert refused is None, (version, refused)
        elif not all(rule.forgotten for rule in broken):
            assert refused is not None, (version, [rule.id for rule in broken])
