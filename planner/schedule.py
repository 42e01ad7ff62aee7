"""The pipeline schedules of Megatron-Core: 1F1B and interleaved 1F1B."""


def in_flight_microbatches(
    num_stages: int,
    num_virtual_stages: int,
    num_microbatches: int,
    stage: int,
    group: int | None = None,
) -> float:
    """Microbatches whose activations a stage keeps at the most, over all its chunks.

    `group` is microbatch_group_size_per_vp_stage, by default the number of stages.

    With interleaving the count is of chunks, each of 1 / num_virtual_stages of the stage's layers.
    Source: megatron-core 0.16.1, megatron/core/pipeline_parallel/schedules.py:
    get_pp_rank_microbatches: warm-up microbatches, and the one that is running.
    """
    warmup = num_stages - stage - 1
    if num_virtual_stages > 1:
        warmup = 2 * warmup + (num_virtual_stages - 1) * (group or num_stages)
    return min(warmup + 1, num_microbatches * num_virtual_stages) / num_virtual_stages


def pipeline_seconds(
    stage_seconds: list[float], num_microbatches: int, num_virtual_stages: int
) -> float:
    """Seconds of all microbatches through the pipeline.

    `stage_seconds[s]` is forward and backward of one microbatch on stage s. The slowest stage is
    never idle between its first and last microbatch; the others' passes fill and drain the pipe,
    in pieces of 1 / num_virtual_stages (Narayanan et al., arXiv 2104.04473, section 2.2).
    """
    slowest = max(stage_seconds)
    fill = sum(stage_seconds) - slowest
    return num_microbatches * slowest + fill / num_virtual_stages
