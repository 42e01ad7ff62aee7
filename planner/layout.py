"""A parallel layout: the sizes of all groups, the pipeline split, the micro-batch and what is
recomputed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Recompute:
    """Activation recomputation, in Megatron's words."""

    granularity: str = "none"  # none | selective | full
    method: str | None = None  # uniform | block, with full
    num_layers: int | None = None  # with full: of one checkpoint (uniform), of a chunk (block)
    modules: tuple[str, ...] = ()  # with selective

    def feed_forward(self, is_moe: bool) -> bool:
        """Whether selective recomputation runs the feed-forward part of a layer again as a whole:
        "moe" of sparse layers, "mlp" of dense ones.

        Source: megatron-core 0.16.1, megatron/core/transformer/transformer_layer.py: recompute_mlp.
        """
        return ("moe" if is_moe else "mlp") in self.modules

    def __str__(self) -> str:
        if self.granularity == "selective":
            return "+".join(self.modules)
        if self.granularity == "full":
            return "full" if self.method == "uniform" else f"block {self.num_layers}"
        return "none"


NO_RECOMPUTE = Recompute()
FULL_RECOMPUTE = Recompute(granularity="full", method="uniform", num_layers=1)


@dataclass(frozen=True, slots=True)
class PipelineSplit:
    """Which decoder layers each model chunk of each stage holds.

    `chunks[stage][virtual_stage]` is the range (first, end) of 0-based layer ids. The embedding is
    on the first chunk of the first stage; the head, the loss and MTP on the last chunk of the last
    stage.
    """

    chunks: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def num_stages(self) -> int:
        """Pipeline stages."""
        return len(self.chunks)

    @property
    def num_virtual_stages(self) -> int:
        """Model chunks a stage."""
        return len(self.chunks[0])

    def layer_ids(self, stage: int) -> tuple[tuple[int, ...], ...]:
        """0-based layer ids of a stage, a tuple per model chunk."""
        return tuple(tuple(range(first, end)) for first, end in self.chunks[stage])

    def num_layers(self, stage: int) -> int:
        """Layers of a stage, over all its chunks."""
        return sum(end - first for first, end in self.chunks[stage])


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One point of the search.

    Both grids have the same world: tp*cp*dp*pp = etp*ep*edp*pp, unless a rule of the world is
    broken: dp and edp are rounded down.
    """

    world_size: int
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    ep: int = 1
    etp: int = 1
    cp: int = 1
    micro_batch_size: int = 1
    global_batch_size: int = 16
    recompute: Recompute = NO_RECOMPUTE
    split: PipelineSplit
    dispatcher: str = "alltoall"

    @property
    def dp(self) -> int:
        """Data-parallel size of the attention grid."""
        return self.world_size // (self.tp * self.cp * self.pp)

    @property
    def edp(self) -> int:
        """Data-parallel size of the expert grid."""
        return self.world_size // (self.etp * self.ep * self.pp)

    @property
    def num_microbatches(self) -> int:
        """Microbatches of one step on each pipeline; where the world is too small for one, as if
        dp were 1."""
        return self.global_batch_size // (self.micro_batch_size * max(1, self.dp))

    @property
    def sequence_parallel(self) -> bool:
        """Sequence parallelism goes with tensor parallelism, always (a MoE layer with TP needs
        it)."""
        return self.tp > 1

    def __str__(self) -> str:
        sizes = {"tp": self.tp, "pp": self.pp, "vpp": self.vpp, "cp": self.cp, "ep": self.ep}
        sizes |= {"etp": self.etp, "mbs": self.micro_batch_size}
        named = [f"{name}{size}" for name, size in sizes.items() if size > 1]
        return f"{' '.join(named) or f'dp{self.dp}'}, recompute {self.recompute}"
