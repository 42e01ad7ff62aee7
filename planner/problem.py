"""What a search is about: a problem that stays the same, and sizes that may not fit together."""

from dataclasses import dataclass, fields

from planner.cluster import Cluster
from planner.layout import NO_RECOMPUTE, Layout, PipelineSplit, Recompute
from planner.model_spec import ModelSpec
from planner.recipe import Recipe
from planner.settings import AS_PLANNED, Settings
from planner.stack import Stack
from planner.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What does not change during a search. Of the recipe only what overlaps matters to it."""

    model: ModelSpec
    cluster: Cluster
    workload: Workload
    stack: Stack
    recipe: Recipe
    settings: Settings = AS_PLANNED

    @property
    def reads_optimizer(self) -> bool:
        """Whether a run that goes on from a checkpoint reads the optimizer's states from it."""
        return not (self.recipe.no_save_optim or self.settings.given.get("no_load_optim"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A candidate before it is a layout: sizes that may contradict each other."""

    world_size: int
    tp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1
    vpp: int = 1
    micro_batch_size: int = 1
    recompute: Recompute = NO_RECOMPUTE
    split: PipelineSplit | None = None
    dispatcher: str = "alltoall"

    @property
    def dp(self) -> int:
        """Data-parallel size of the attention grid, rounded down; at least 1."""
        return max(1, self.world_size // (self.tp * self.cp * self.pp))


def sizes_of(layout: Layout) -> Sizes:
    """The sizes of a layout, for rules to look at again."""
    return Sizes(**{each.name: getattr(layout, each.name) for each in fields(Sizes)})


def as_layout(problem: Problem, sizes: Sizes) -> Layout:
    """The layout of sizes that break no rule."""
    assert sizes.split is not None
    return Layout(
        world_size=sizes.world_size,
        tp=sizes.tp,
        pp=sizes.pp,
        vpp=sizes.vpp,
        ep=sizes.ep,
        etp=sizes.etp,
        cp=sizes.cp,
        micro_batch_size=sizes.micro_batch_size,
        global_batch_size=problem.workload.global_batch_size,
        recompute=sizes.recompute,
        split=sizes.split,
        dispatcher=sizes.dispatcher,
    )
