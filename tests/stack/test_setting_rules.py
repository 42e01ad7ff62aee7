"""Every rule of a setting has a layout that breaks it, and one that keeps it; the stack agrees.

A rule is right because the stack refuses what breaks it, or, of rules that Megatron forgets,
because the setting does nothing or something else than it says: see FORGOTTEN.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from planner.setting_rules import SETTING_RULES
from stack.candidates import Candidate
from stack.real_stack import RealStack
from stack.setting_candidates import FIRST, LAYOUT, SETTING_CANDIDATES, named

pytestmark = pytest.mark.stack

# What the optimizer's maker refuses, after the model is built.
OF_OPTIMIZER = {
    "precision_aware_adam",
    "sgd_distributed",
    "precision_aware_distributed",
    "precision_aware_off",
    "offload_dtypes",
    "overlap_distributed",
}
each_rule = pytest.mark.parametrize("rule", SETTING_CANDIDATES)


def test_every_rule_of_a_setting_is_tried_here() -> None:
    """But for what Transformer Engine and GPUs refuse, which a CPU cannot show."""
    assert set(SETTING_CANDIDATES) == {rule.id for rule in SETTING_RULES if rule.kind == "illegal"}


def refusal(stack: RealStack, folder: Path, tried: Candidate, rule: str) -> str | None:
    """Who refuses a layout on its first or last rank, or to make its optimizer; None: nobody."""
    flags, world_size = tried.flags(stack.megatron_core), tried.sizes.world_size
    for rank in {0, world_size - 1}:
        refused = stack.refusal(folder, world_size, flags, rank=rank)
        if refused is not None:
            return refused
    if rule not in OF_OPTIMIZER:
        return None
    found: str | None = stack.optimizer(folder, world_size, flags)["refused"]
    return found


@each_rule
def test_a_setting_that_breaks_one_rule_is_refused_or_not_what_it_says(
    stack: RealStack, short_folders: dict[str, Path], rule: str
) -> None:
    broken, _ = SETTING_CANDIDATES[rule]
    assert [each.id for each in broken.broken(stack.megatron_core)] == [rule]

    folder = short_folders[broken.model]
    refused = refusal(stack, folder, broken, rule)
    assert (refused is None) == (rule in FORGOTTEN)
    if rule in FORGOTTEN:
        FORGOTTEN[rule](stack, folder, broken)


@each_rule
def test_a_setting_that_keeps_the_rule_is_accepted_and_builds_the_split_that_it_names(
    stack: RealStack, short_folders: dict[str, Path], rule: str
) -> None:
    _, legal = SETTING_CANDIDATES[rule]
    assert legal.broken(stack.megatron_core) == []

    folder = short_folders[legal.model]
    assert refusal(stack, folder, legal, rule) is None
    if legal.settings.names_split:
        assert built(stack, folder, legal) == planned(legal)


def planned(tried: Candidate) -> list[list[list[int]]]:
    """Decoder layers of every chunk of every stage that the planner reads in the settings."""
    split = tried.sizes.split
    assert split is not None
    return [[list(ids) for ids in split.layer_ids(stage)] for stage in range(split.num_stages)]


def built(stack: RealStack, folder: Path, tried: Candidate) -> list[list[list[int]]]:
    """Decoder layers of every chunk of every stage that megatron-core builds."""
    flags, world_size = tried.flags(stack.megatron_core), tried.sizes.world_size
    ranks = (stack.build(folder, world_size, flags, rank) for rank in range(world_size))
    return [[chunk["layers"] for chunk in chunks] for chunks in ranks]


def _a_stage_without_layers_divides_by_zero(
    stack: RealStack, folder: Path, broken: Candidate
) -> None:
    """A stage that megatron-core leaves empty ends in ms-swift, not before it was built."""
    flags, world_size = broken.flags(stack.megatron_core), broken.sizes.world_size
    refused = [stack.refusal(folder, world_size, flags, rank=r) for r in range(1, world_size - 1)]
    assert any("float division by zero" in str(each) for each in refused)


def _ends_are_built_at_the_ends(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """Where L stands in the last chunk but one, the last stage has the output layer still."""
    moved = named(f"{LAYOUT}=Et*5|t*6|t|L", pp=4)
    last, right = (
        stack.build(folder, 4, each.flags(stack.megatron_core), rank=3) for each in (broken, moved)
    )
    assert last == right


def _nothing_changes(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """The schedule without interleaving starts with the setting as without it."""
    flags, world_size = broken.flags(stack.megatron_core), broken.sizes.world_size
    assert stack.first_step(folder, world_size, flags)["schedule"] is None
    assert "microbatch_group" in str(flags)


def _states_on_the_host_have_no_types(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """The optimizer that divides states between GPU and host is not told their types."""
    options = stack.call("offload_options")
    assert "offload_fraction" in options
    assert not [name for name in options if "dtype" in name]


def _nothing_is_gathered(stack: RealStack, folder: Path, broken: Candidate) -> None:
    """Without the distributed optimizer no buffer of parameters is there to be gathered."""
    flags = broken.flags(stack.megatron_core)
    assert flags["overlap_param_gather"] is True
    made = stack.optimizer(folder, broken.sizes.world_size, flags)
    assert made["parameters"] == 0


FORGOTTEN: dict[str, Callable[[RealStack, Path, Candidate], None]] = {
    "uneven_over": _a_stage_without_layers_divides_by_zero,
    "layout_empty": _a_stage_without_layers_divides_by_zero,
    "layout_end_chunks": _ends_are_built_at_the_ends,
    "microbatch_group_vpp": _nothing_changes,
    "offload_dtypes": _states_on_the_host_have_no_types,
    "overlap_distributed": _nothing_is_gathered,
}


def test_the_rules_of_settings_that_megatron_forgets_are_the_ones_proven_here() -> None:
    assert set(FORGOTTEN) == {rule.id for rule in SETTING_RULES if rule.forgotten}


@pytest.mark.parametrize(
    ("group", "microbatches", "accepted"),
    [(2, 6, True), (3, 6, True), (4, 6, True), (4, 8, True), (4, 5, False), (7, 6, False)],
)
def test_groups_of_microbatches_are_those_that_the_schedule_takes(
    stack: RealStack,
    short_folders: dict[str, Path],
    group: int,
    microbatches: int,
    accepted: bool,
) -> None:
    tried = named(
        *(f"microbatch_group_size_per_vp_stage={group}", f"{FIRST}=6"),
        pp=2,
        vpp=2,
        global_batch_size=microbatches,
    )
    flags = tried.flags(stack.megatron_core)
    schedule = stack.first_step(short_folders[tried.model], 2, flags)["schedule"]

    assert (schedule is None) == accepted
    assert [rule.id for rule in tried.broken(stack.megatron_core)] == (
        [] if accepted else ["vpp_microbatches"]
    )
