"""Ranks of real runs on two GPUs: what was predicted of each, NCCL's memory too, and what it said.

The runs are those of ../steptime/two_gpus.jsonl, over NVLink. Which groups speak in runs without a
GPU is in speaking_groups.jsonl.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from predict import Predicted, predict
from two_gpus import Entry, listed
from two_gpus_report import RESULTS

from planner.communicators import KERNELS_BYTES, PAGE_BYTES, Communicator, Speakers
from planner.grids import Grids
from planner.layout import Layout
from planner.memory import CUDA_CONTEXT_BYTES
from planner.placement import place
from planner.split import even_split
from planner.topology_files import load_topology
from planner.units import GIB, MIB

# A communicator of two ranks that take each other for other hosts and speak over sockets: pages of
# two channels and its own, buffers are on the host. It comes to what those runs had.
SOCKETS_BYTES = (2 * 3 + 2) * PAGE_BYTES
# The one process of benchmarks/convert, and its repetition on an H200 (LoRA): beside reserved.
ONE_PROCESS_BYTES = {"H100, full": 3.96 * GIB, "H200, LoRA": 4050 * MIB}


@dataclass(frozen=True, slots=True, kw_only=True)
class NvlinkRank:
    """A rank; `seen` is what it said after its last step, `repeats` how often it was run."""

    tag: str
    layout: Layout
    predicted: Predicted
    loaded: Predicted  # at the load of its experts in the layer and microbatch that had the most
    seen: dict[str, Any]
    repeats: int
    balanced: float  # tokens that a full, balanced pack gives its experts

    @property
    def beside(self) -> int:
        """Bytes of the device that its allocator does not know, measured."""
        return int(self.seen["device_used"]) - int(self.seen["reserved"])

    @property
    def predicted_beside(self) -> float:
        """The same, predicted of a run that has not saved."""
        return CUDA_CONTEXT_BYTES + KERNELS_BYTES + sum(each.bytes for each in self.communicators)

    @property
    def beside_error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_beside / self.beside - 1

    @property
    def left_bytes(self) -> float:
        """What is neither the context nor a communicator: what `KERNELS_BYTES` was fitted to."""
        return self.beside - self.predicted_beside + KERNELS_BYTES

    @property
    def grid(self) -> tuple[int, ...]:
        """TP, CP, PP, VPP, EP and ETP."""
        return _grid(self.layout)

    @property
    def is_fitted_to(self) -> bool:
        """Every other grid, in the order of the list."""
        return _GRIDS.index(self.grid) % 2 == 0

    @property
    def communicators(self) -> list[Communicator]:
        """Those that are counted."""
        stage = self.predicted.row.rank * self.layout.pp // self.layout.world_size
        return list(speakers(self.layout).stage(stage, interleaved=self.layout.vpp > 1))

    @property
    def loaded_error(self) -> float:
        """Of the allocated peak, if every layer had the most load that one had."""
        peak = self.loaded.memory.peak_allocated_at_imbalance
        return float(peak / self.seen["peak_allocated"] - 1)

    def error(self, name: str) -> float:
        """Of peak_allocated or peak_reserved."""
        return float(getattr(self.predicted.memory, name) / self.seen[name] - 1)


def _grid(layout: Layout) -> tuple[int, ...]:
    return (layout.tp, layout.cp, layout.pp, layout.vpp, layout.ep, layout.etp)


_GRIDS = list(dict.fromkeys(_grid(entry.layout) for entry in listed()))


def _balanced(entry: Entry) -> float:
    layout, row = entry.layout, entry.row
    length = int(row.argv[row.argv.index("--max_length") + 1])
    tokens = layout.micro_batch_size * length * layout.etp / layout.cp / layout.tp
    return tokens * float(row.config["num_experts_per_tok"])


def nvlink_ranks() -> list[NvlinkRank]:
    """Every rank of every layout that was measured, of its first run."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines()
    ended = [result for result in map(json.loads, lines) if result["status"] == 0]
    return [rank for entry in listed() for rank in _of(entry, ended)]


def _of(entry: Entry, ended: Sequence[dict[str, Any]]) -> Iterator[NvlinkRank]:
    mine = [result for result in ended if result["id"] == entry.row.id]
    for number, seen in enumerate(mine[0]["ranks"] if mine else ()):
        row, balanced = replace(entry.row, rank=number), _balanced(entry)
        tokens = {"mean": seen["most_expert_tokens"], "balanced": balanced}
        yield NvlinkRank(
            tag=entry.row.id,
            layout=entry.layout,
            predicted=predict(row, {}),
            loaded=predict(row, {"expert_tokens": tokens}),
            seen=seen,
            repeats=len(mine),
            balanced=balanced,
        )


def speakers(layout: Layout) -> Speakers:
    """The groups of a layout of a sparse model on hosts of eight GPUs."""
    grids = Grids(
        world_size=layout.world_size,
        **{name: getattr(layout, name) for name in ("tp", "cp", "pp", "ep", "etp")},
    )
    cluster = load_topology("h100-8x-ib", 1, layout.world_size)
    groups = place(cluster, grids)
    return Speakers(
        cluster=cluster, groups=groups, has_experts=True, copies_embedding=False, saves=False
    )


def over_sockets(layout: Layout) -> int:
    """Predicted bytes beside reserved of one of two ranks that speak over sockets."""
    made = speakers(layout).stage(0, interleaved=False)
    sizes = [each.bytes if each.place.size == 1 else SOCKETS_BYTES for each in made]
    return round(CUDA_CONTEXT_BYTES + KERNELS_BYTES + sum(sizes))


def alone() -> float:
    """Predicted bytes beside reserved of the only process of a run."""
    split = even_split(1, 1)
    assert split is not None
    made = speakers(Layout(world_size=1, split=split)).stage(0, interleaved=False)
    return CUDA_CONTEXT_BYTES + sum(each.bytes for each in made)


def kernels_of_half() -> float:
    """What `KERNELS_BYTES` is, rounded up: the most of the ranks that it was fitted to."""
    return max(rank.left_bytes for rank in nvlink_ranks() if rank.is_fitted_to)
