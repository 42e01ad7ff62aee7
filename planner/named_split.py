"""The pipeline split that settings name, as Megatron-Core reads them."""

from itertools import accumulate

from planner.layout import PipelineSplit
from planner.pipeline_layout import layout_chunks
from planner.settings import Settings


def named_sizes(
    settings: Settings, num_layers: int, num_stages: int, num_virtual_stages: int
) -> list[list[int]] | None:
    """Layers of every chunk that the settings name, [stage][virtual stage], as Megatron-Core counts
    them; None where it does not.

    Source: megatron-core 0.16.1, megatron/core/transformer/transformer_block.py:
    get_num_layers_to_build, the same in 0.18.1.
    """
    if settings.pipeline_model_parallel_layout is not None:
        chunks = layout_chunks(settings.pipeline_model_parallel_layout)
        if len(chunks) != num_stages * num_virtual_stages:
            return None
        return [
            [chunk.count("t") for chunk in chunks[stage::num_stages]] for stage in range(num_stages)
        ]
    stages = _stage_sizes(settings, num_layers, num_stages)
    if stages is None or any(size < 0 or size % num_virtual_stages for size in stages):
        return None
    sizes = [[size // num_virtual_stages] * num_virtual_stages for size in stages]
    sizes[0][0] -= settings.account_for_embedding_in_pipeline_split
    sizes[-1][-1] -= settings.account_for_loss_in_pipeline_split
    return sizes


def _stage_sizes(settings: Settings, num_layers: int, num_stages: int) -> list[int] | None:
    """Layers of every stage, the embedding and the loss among them where they are accounted for."""
    first = settings.decoder_first_pipeline_num_layers
    last = settings.decoder_last_pipeline_num_layers
    total = num_layers + settings.account_for_embedding_in_pipeline_split
    total += settings.account_for_loss_in_pipeline_split
    others = num_stages - (first is not None) - (last is not None)
    left = total - (first or 0) - (last or 0)
    if others < 0 or bool(left) != bool(others) or (others and left % others):
        return None
    sizes = [left // others if others else 0] * num_stages
    sizes[0] = sizes[0] if first is None else first
    sizes[-1] = sizes[-1] if last is None else last
    return sizes


def named_split(
    settings: Settings, num_layers: int, num_stages: int, num_virtual_stages: int
) -> PipelineSplit | None:
    """The split that the settings name; None where it is none, as a rule then says."""
    sizes = named_sizes(settings, num_layers, num_stages, num_virtual_stages)
    if sizes is None or any(size < 0 for stage in sizes for size in stage):
        return None
    ends = list(accumulate(size for virtual in zip(*sizes, strict=True) for size in virtual))
    if ends[-1] != num_layers:
        return None
    ranges = list(zip([0, *ends], ends, strict=False))
    return PipelineSplit(tuple(tuple(ranges[stage::num_stages]) for stage in range(num_stages)))
