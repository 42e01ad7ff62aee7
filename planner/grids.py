"""Which ranks form which group: two grids over the same ranks, in Megatron's order tp-cp-ep-dp-pp.

    dense   rank = tp + TP * (cp + CP * (dp + DP * pp))        everything but routed experts
    expert  rank = etp + ETP * (ep + EP * (edp + EDP * pp))    routed experts

A group is all ranks that differ only in the coordinates of its axes; inside it the first axis runs
fastest. Source: megatron-core 0.16.1, megatron/core/parallel_state.py: initialize_model_parallel
builds two `RankGenerator`s with this order, generate_masked_orthogonal_rank_groups the groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

DENSE_AXES = ("tp", "cp", "dp", "pp")
EXPERT_AXES = ("etp", "ep", "edp", "pp")

# name of a group: the axes along which its ranks differ, fastest first
GROUP_AXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tp": ("tp",),
        "cp": ("cp",),
        "dp": ("dp",),
        "dp_cp": ("cp", "dp"),  # gradients and optimizer states of everything but routed experts
        "pp": ("pp",),
        "ep": ("ep",),
        "etp": ("etp",),
        "etp_ep": ("etp", "ep"),  # token dispatch
        "edp": ("edp",),  # gradients and optimizer states of routed experts
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grids:
    """The groups of a job; both identities hold: world = tp*cp*dp*pp = etp*ep*edp*pp.

    Raises ValueError when the world size is not a multiple of tp*cp*pp and of etp*ep*pp: the rules
    of `planner.constraints` refuse such a layout before.
    """

    world_size: int
    tp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1

    def __post_init__(self) -> None:
        for names, size in (
            ("tp*cp*pp", self.tp * self.cp * self.pp),
            ("etp*ep*pp", self.etp * self.ep * self.pp),
        ):
            if self.world_size % size:
                raise ValueError(
                    f"world size {self.world_size} is not a multiple of {names} = {size}"
                )

    @property
    def dp(self) -> int:
        """Data-parallel size of the dense grid."""
        return self.world_size // (self.tp * self.cp * self.pp)

    @property
    def edp(self) -> int:
        """Data-parallel size of the expert grid."""
        return self.world_size // (self.etp * self.ep * self.pp)

    def axis(self, name: str) -> tuple[int, int]:
        """Size of an axis and the distance in ranks between its neighbours."""
        axes = DENSE_AXES if name in DENSE_AXES else EXPERT_AXES
        stride = 1
        for axis in axes[: axes.index(name)]:
            stride *= int(getattr(self, axis))
        return int(getattr(self, name)), stride

    def size(self, group: str) -> int:
        """Ranks of a group."""
        size = 1
        for name in GROUP_AXES[group]:
            size *= self.axis(name)[0]
        return size

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where a rank stands on every axis of both grids."""
        place = {}
        for name in dict.fromkeys(DENSE_AXES + EXPERT_AXES):
            size, stride = self.axis(name)
            place[name] = rank // stride % size
        return place

    def stage(self, rank: int) -> int:
        """The pipeline stage of a rank."""
        return rank // (self.world_size // self.pp)

    def offsets(self, group: str) -> tuple[int, ...]:
        """Ranks of a group, counted from its first one, in the group's order."""
        axes = [self.axis(name) for name in GROUP_AXES[group]]
        steps = [range(0, size * stride, stride) for size, stride in reversed(axes)]
        return tuple(sum(position) for position in product(*steps))

    def group_of(self, group: str, rank: int) -> tuple[int, ...]:
        """The ranks of one rank's group, without building the others."""
        axes = [self.axis(name) for name in GROUP_AXES[group]]
        first = rank - sum(rank // stride % size * stride for size, stride in axes)
        return tuple(first + offset for offset in self.offsets(group))

    def groups(self, group: str) -> tuple[tuple[int, ...], ...]:
        """All groups of a name, by their first rank; together they hold every rank once."""
        axes = [self.axis(name) for name in GROUP_AXES[group]]
        offsets = self.offsets(group)
        return tuple(
            tuple(rank + offset for offset in offsets)
            for rank in range(self.world_size)
            if all(rank // stride % size == 0 for size, stride in axes)
        )
