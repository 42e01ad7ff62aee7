"""What saving checkpoints takes of a run, spread over the steps between two of them.

It stands beside the steps and not in them: all layouts of a problem write as much, logs tell of
steps without it, and it rests on an assumed disk, that of steps on measured GPUs.
"""

from planner.layer_shape import BF16
from planner.layout import Layout, PipelineSplit
from planner.parameters import rank_parameters
from planner.precision import state_bytes
from planner.problem import Problem
from planner.workload import TunerType

# Of a node, reading or writing; yours may differ tenfold.
ASSUMED_DISK_BYTES_PER_SECOND = 1e9


def saving(problem: Problem, step_seconds: float) -> dict[str, float]:
    """A checkpoint's bytes, the steps between two, what each takes, that by step, and the speed of
    steps of so many seconds with it.

    Training waits: ms-swift refuses async_save beside save_total_limit, which every recipe has
    (4.6.0, swift/megatron/arguments/megatron_args.py:912). Every rank writes its own part
    (swift/megatron/utils/megatron_lm_utils.py:357), of LoRA the adapters only (`peft_format`). Not
    in it: copies to the host, which were measured once, and Hugging Face weights beside the
    checkpoint of a run that loads them directly.
    """
    size, steps = checkpoint_bytes(problem), problem.recipe.save_steps
    seconds = size / problem.cluster.num_nodes / ASSUMED_DISK_BYTES_PER_SECOND
    tokens = problem.workload.step_tokens / problem.cluster.num_gpus
    return {
        "bytes": size,
        "interval_steps": steps,
        "seconds": seconds,
        "seconds_per_step": seconds / steps,
        "tokens_per_second_per_gpu": tokens / (step_seconds + seconds / steps),
    }


def checkpoint_bytes(problem: Problem) -> int:
    """Bytes of a checkpoint: bf16 weights, and the optimizer's states if they are saved."""
    model, workload = problem.model, problem.workload
    whole = Layout(world_size=1, split=PipelineSplit((((0, model.num_layers),),)))
    parameters = rank_parameters(model, whole, workload, 0)
    lora = workload.tuner_type is TunerType.LORA
    weights = parameters.trainable if lora else parameters.total
    states = 0 if problem.recipe.no_save_optim else state_bytes(problem.settings).saved
    return weights * BF16 + states * parameters.trainable
