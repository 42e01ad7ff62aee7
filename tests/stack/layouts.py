"""Layouts that tests hold against the stack: of each bundled model, with every kind of split."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from planner.layout import Layout, PipelineSplit, Recompute

FULL = Recompute(granularity="full", method="uniform", num_layers=1)
BLOCK = Recompute(granularity="full", method="block", num_layers=2)
ATTENTION = Recompute(granularity="selective", modules=("core_attn",))
EXPERTS = Recompute(granularity="selective", modules=("core_attn", "moe_act"))
LATENT = Recompute(granularity="selective", modules=("core_attn", "mla_up_proj"))


@dataclass(frozen=True, slots=True)
class Case:
    """A layout of a bundled model, with the MTP layers that it trains."""

    model: str
    layout: Layout
    mtp_num_layers: int = 0

    def __str__(self) -> str:
        layout = self.layout
        names = ("tp", "pp", "vpp", "ep", "etp", "cp")
        sizes = (f"{name}{getattr(layout, name)}" for name in names if getattr(layout, name) > 1)
        mtp = ["mtp"] * (self.mtp_num_layers > 0)
        return "-".join([self.model, str(layout.world_size), *sizes, *mtp])


def split(sizes: list[list[int]]) -> PipelineSplit:
    """Return the split with `sizes[stage][virtual_stage]` layers; layers go round the stages."""
    in_layer_order = [size for virtual in zip(*sizes, strict=True) for size in virtual]
    ends = list(accumulate(in_layer_order))
    bounds = list(zip([0, *ends[:-1]], ends, strict=True))
    return PipelineSplit(tuple(tuple(bounds[stage :: len(sizes)]) for stage in range(len(sizes))))


def even(num_layers: int, pp: int, vpp: int = 1) -> list[list[int]]:
    """Return the sizes of an even split."""
    assert num_layers % (pp * vpp) == 0
    return [[num_layers // (pp * vpp)] * vpp] * pp


def case(
    model: str, world_size: int, sizes: list[list[int]], mtp_num_layers: int = 0, **options: Any
) -> Case:
    """Return a case whose pipeline sizes follow from the split."""
    layout = Layout(
        world_size=world_size,
        pp=len(sizes),
        vpp=len(sizes[0]),
        split=split(sizes),
        **{"global_batch_size": 8 * world_size, **options},
    )
    return Case(model, layout, mtp_num_layers)


def _qwen3_30b_a3b() -> list[Case]:
    def row(world_size: int, sizes: list[list[int]], **options: Any) -> Case:
        return case("Qwen3-30B-A3B", world_size, sizes, **options)

    return [
        row(8, even(48, 1), ep=8),
        row(8, even(48, 1), tp=2, ep=8, recompute=FULL),
        row(8, even(48, 1), tp=8, ep=8, recompute=BLOCK),
        row(16, even(48, 2), ep=8, recompute=ATTENTION),
        row(16, even(48, 2), tp=2, ep=4, etp=2, micro_batch_size=2),
        row(16, even(48, 2, 4), tp=2, ep=8, recompute=EXPERTS),
        row(16, [[23], [25]], tp=4, ep=8),
        row(32, [[11], [13], [13], [11]], cp=2, ep=8),
        row(32, [[13], [13], [13], [9]], tp=2, ep=4),
        row(32, [[6, 7], [5, 6], [6, 7], [7, 4]], ep=4, cp=4),
        row(32, [[5, 6], [6, 6], [7, 6], [7, 5]], tp=2, cp=2, ep=2, etp=4),
        row(64, even(48, 8, 2), tp=4, ep=4, recompute=FULL),
    ]


def _qwen3_235b_a22b() -> list[Case]:
    def row(world_size: int, sizes: list[list[int]], **options: Any) -> Case:
        return case("Qwen3-235B-A22B", world_size, sizes, **options)

    return [
        row(16, even(94, 1), tp=4, ep=16),
        row(16, even(94, 2), tp=2, ep=8, recompute=FULL),
        row(32, [[23], [24], [24], [23]], tp=8, ep=8, recompute=ATTENTION),
        row(32, [[11, 12], [12, 12], [12, 12], [12, 11]], tp=4, ep=8),
        row(64, [[11], *[[12]] * 6, [11]], tp=4, ep=8, recompute=EXPERTS),
        row(64, [[12], [12], [12], [12], [12], [12], [12], [10]], ep=8),
        row(64, [[10], [12], [12], [12], [12], [12], [12], [12]], cp=2, ep=4, etp=2),
        row(64, [[13], [11], [12], [12], [11], [13], [12], [10]], tp=2, cp=4, ep=8),
        row(64, [[6, 6], *[[6, 6]] * 6, [6, 4]], tp=8, ep=2),
        row(128, [[5], *[[6]] * 14, [5]], ep=8, tp=2),
        row(94, even(94, 94), micro_batch_size=4),
    ]


def _deepseek_v3() -> list[Case]:
    def row(world_size: int, sizes: list[list[int]], mtp: int = 0, **options: Any) -> Case:
        return case("DeepSeek-V3", world_size, sizes, mtp_num_layers=mtp, **options)

    return [
        row(64, even(61, 1), ep=64),
        row(64, even(61, 1), mtp=1, tp=8, ep=32, recompute=FULL),
        row(64, [[31], [30]], tp=2, ep=32, recompute=LATENT),
        row(128, [[4], *[[4]] * 14, [1]], ep=8, recompute=ATTENTION),
        row(128, [[4], *[[4]] * 14, [1]], mtp=1, tp=2, ep=8),
        row(128, [[8], [8], [8], [8], [8], [8], [8], [5]], mtp=1, ep=16),
        row(128, [[3], *[[4]] * 14, [2]], mtp=1, tp=4, ep=4, etp=2),
        row(128, [[5], [9], [8], [8], [8], [9], [8], [6]], mtp=1, tp=4, cp=2, ep=8),
        row(128, [[4, 4], *[[4, 4]] * 6, [3, 2]], mtp=1, ep=8, tp=8),
        row(128, [[3, 4], [4, 4], [4, 4], [4, 4], [4, 4], [4, 4], [4, 4], [4, 2]], cp=2, ep=16),
        row(256, [[4], *[[4]] * 14, [1]], mtp=1, tp=16, ep=16, recompute=EXPERTS),
        row(16, [[3], *[[4]] * 14, [2]], mtp=1),
    ]


def _qwen2_5_7b() -> list[Case]:
    def row(world_size: int, sizes: list[list[int]], **options: Any) -> Case:
        return case("Qwen2.5-7B", world_size, sizes, **options)

    return [
        row(8, even(28, 1)),
        row(8, even(28, 1), tp=2, recompute=ATTENTION),
        row(8, even(28, 1), tp=4, cp=2, recompute=FULL),
        row(8, even(28, 2), tp=2),
        row(16, even(28, 4), tp=4),
        row(16, even(28, 2, 7), tp=2),
        row(16, [[13], [15]], cp=2, tp=2),
        row(16, [[6], [8], [8], [6]], micro_batch_size=2),
        row(16, [[8], [7], [7], [6]], tp=2),
        row(16, [[3, 4], [4, 4], [3, 4], [4, 2]], tp=4),
        row(28, even(28, 28)),
        row(28, even(28, 7), tp=4),
    ]


CASES = [*_qwen3_30b_a3b(), *_qwen3_235b_a22b(), *_deepseek_v3(), *_qwen2_5_7b()]

# mcore-bridge 1.6.5 refuses LoRA with expert tensor parallelism (tuners/lora.py)
LORA_CASES = [
    case("Qwen3-30B-A3B", 8, even(48, 1), ep=8),
    case("Qwen3-30B-A3B", 16, even(48, 2, 2), tp=4, ep=4),
    case("Qwen3-235B-A22B", 32, [[23], [24], [24], [23]], tp=8, ep=8),
    case("DeepSeek-V3", 64, [[8], [8], [8], [8], [8], [8], [8], [5]], 1, tp=2, ep=8),
    case("DeepSeek-V3", 32, [[31], [30]], tp=4, ep=16),
    case("Qwen2.5-7B", 8, [[13], [15]], tp=4),
    case("Qwen2.5-7B", 4, even(28, 4)),
]
