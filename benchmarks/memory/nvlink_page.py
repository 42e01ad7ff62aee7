"""The part of README.md on two GPUs that NVLink joins, and on what NCCL takes."""

from collections.abc import Iterable

from nvlink_rows import ONE_PROCESS_BYTES, NvlinkRank, alone, kernels_of_half, nvlink_ranks

from planner.communicators import KERNELS_BYTES
from planner.memory import CUDA_CONTEXT_BYTES
from planner.units import GIB, MIB

RUNS = """
## Two GPUs over NVLink

{number} ranks of `megatron sft` on two H200s: {layouts} layouts of Qwen3-30B-A3B with six layers,
packs of natural documents, natural routing of random weights (`../steptime/two_gpus.jsonl`).
Predicted at balanced routing and full packs, as before a run; parameters are exact. Load is what
the rank's experts got over their share of full packs: the mean, and the most that a layer got of
one microbatch; "at the most" is the peak predicted if every layer got that.

Allocated peaks are within {allocated:.1%}, reserved ones within {reserved:.1%} (asked for: 6 %).
**The load of experts explains little here.** Where ranks hold different experts (EP2) and nothing
is recomputed, peaks are {low:+.1%} to {high:+.1%} off, the busier rank's being the fuller one;
elsewhere all are within {rest:.1%}. The most that a layer got would explain no peak: it would
be {most:.1%} too high, as a peak at the loss holds all layers, whose loads even out.
"""

NCCL = """
### What NCCL takes

Beside reserved is what the process has of the device (nvidia-smi) less what its allocator reserved,
after the last step; layouts that were run again had the same, but for 2 MiB. Predicted are the CUDA
context ({context:.2f} GiB), the rank's communicators and {kernels:.0f} MiB.

The communicators have no fitted number. `planner/communicators.py` counts the process groups that a
rank speaks in, which were recorded from the same software on CPUs (`speaking_groups.jsonl`), and
takes their sizes from NCCL's source: each of its allocations has at least 2 MiB (with
`NCCL_CUMEM_ENABLE`, the default). A communicator of one rank, which speaks with nobody, has 64
channels of three allocations: 388 MiB. One of two over NVLink has 32, of which 24 are connected to
a ring by the first collective (484 MiB in all), and all by the first message (580 without a ring).
NCCL's log of another run under EP2, which saved, had these numbers, and one more of two.

The {kernels:.0f} MiB are the one number that was fitted, to the grids marked * (every other one of
the list): the most that they have left ({half:.0f} MiB), rounded up. It is NCCL's kernels and their
local memory. **On the grids that are not marked, all that is beside reserved is predicted within
{held_out:.1%}**, on those that are within {fitted:.1%}. It is no clean test: all of them had been
seen when the sizes were looked for. What is left has a pattern: 60 MiB less where nothing sends
messages, 130 less on the first of two stages, which has no kernels of a loss.
"""

BEFORE = """
**What was not understood before were communicators of one rank.** A process alone speaks in eight
groups: {ones}.
Two ranks of one GPU that took each other for hosts, above, had five of one rank, and six or seven
over sockets, whose buffers are on the host (16 MiB each on the GPU, read off those runs).

**Not measured: groups of more than two ranks, and networks.** By the source a further peer costs
384 MiB more where NVLink joins all of a group that sends messages: the tokens of EP8 in one host
take 2.8 GiB. Beyond NVLink two channels serve each peer, and buffers are shared. Trees, and NVLink
SHARP, which was off here, are assumed to take as much again as a ring. Nor was saving, which plans
count, with two ranks: a communicator of EP and PP, by which experts are gathered (that one more),
and messages to the first rank from every other one, 320 MiB each over NVLink (that log has the 32
channels that they were sent by). Stacks that set `NCCL_CUMEM_ENABLE=0` have less.

Others saw of eight H100s what the source says of EP8: 3.28 GB more on each after the first
all-to-all, 32 channels to every peer, and allocations of 10,485,760 and 2,097,152 bytes
(NVIDIA/nccl, issue 1685). Predicted are 3.02 GB, and 3.36 with NCCL's kernels.
**Of racks that NVLink joins nobody is known to have measured it.** Nothing in the source limits
peers there: the tokens of EP64 would take 24 GiB, and the first of 64 ranks 20 more as it saves.
"""


def section() -> list[str]:
    """Lines of the page."""
    ranks = nvlink_ranks()
    loaded = [rank for rank in ranks if rank.layout.ep > 1 and str(rank.layout.recompute) == "none"]
    rest = [rank for rank in ranks if rank not in loaded]
    errors = [rank.error("peak_allocated") for rank in loaded]
    ones = "; ".join(
        f"{alone() / GIB:.2f} / {size / GIB:.2f} GiB ({alone() / size - 1:+.1%}, {name})"
        for name, size in ONE_PROCESS_BYTES.items()
    )
    runs = RUNS.format(
        number=len(ranks),
        layouts=len({rank.tag for rank in ranks}),
        allocated=_worst(rank.error("peak_allocated") for rank in ranks),
        reserved=_worst(rank.error("peak_reserved") for rank in ranks),
        low=min(errors),
        high=max(errors),
        rest=_worst(rank.error("peak_allocated") for rank in rest),
        most=max(rank.loaded_error for rank in ranks),
    )
    nccl = NCCL.format(
        context=CUDA_CONTEXT_BYTES / GIB,
        kernels=KERNELS_BYTES / MIB,
        half=kernels_of_half() / MIB,
        held_out=_worst(rank.beside_error for rank in ranks if not rank.is_fitted_to),
        fitted=_worst(rank.beside_error for rank in ranks if rank.is_fitted_to),
    )
    return [runs, *_table(ranks), nccl, *_beside_table(ranks), BEFORE.format(ones=ones)]


def _worst(errors: Iterable[float]) -> float:
    return max(abs(error) for error in errors)


def _cell(predicted: float, measured: float, unit: int = GIB) -> str:
    decimals = 2 if unit == GIB else 0
    numbers = f"{predicted / unit:.{decimals}f} / {measured / unit:.{decimals}f}"
    return f"{numbers} ({round(predicted / measured - 1, 3) + 0.0:+.1%})"


def _lines(titles: list[str], rows: Iterable[list[str]]) -> list[str]:
    cells = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(row)} |" for row in cells]


def _table(ranks: list[NvlinkRank]) -> list[str]:
    titles = ["row", "rank", "between steps, GiB", "peak allocated, GiB", "at the most"]
    titles += ["peak reserved, GiB", "device use, GiB", "load"]
    rows = []
    for rank in ranks:
        memory, seen = rank.predicted.memory, rank.seen
        load = [seen[name] / rank.balanced for name in ("mean_expert_tokens", "most_expert_tokens")]
        rows.append(
            [
                rank.tag,
                str(rank.predicted.row.rank),
                _cell(memory.steady, seen["allocated"]),
                _cell(memory.peak_allocated, seen["peak_allocated"]),
                f"{round(rank.loaded_error, 3) + 0.0:+.1%}",
                _cell(memory.peak_reserved, seen["peak_reserved"]),
                _cell(memory.peak_reserved + rank.predicted_beside, seen["device_used"]),
                f"{load[0]:.2f}, {load[1]:.2f}",
            ]
        )
    return _lines(titles, rows)


def _beside_table(ranks: list[NvlinkRank]) -> list[str]:
    """Ranks of a grid and stage have the same, whatever is recomputed: one line for them."""
    of_a_stage = {
        (rank.grid, rank.predicted.row.rank * rank.layout.pp // 2): rank for rank in ranks
    }
    rows = []
    for (grid, stage), rank in of_a_stage.items():
        names = ("tp", "cp", "pp", "vpp", "ep", "etp")
        sizes = [f"{name}{size}" for name, size in zip(names, grid, strict=True) if size > 1]
        where = f", stage {stage}" if rank.layout.pp > 1 else ""
        kinds = [made.place.size for made in rank.communicators]
        rows.append(
            [
                f"{' '.join(sizes) or 'dp2'}{where}{' *' if rank.is_fitted_to else ''}",
                f"{kinds.count(1)}, {kinds.count(2)}",
                _cell(rank.predicted_beside, rank.beside, MIB),
            ]
        )
    return _lines(["grid", "communicators of one, of two", "beside reserved, MiB"], rows)
