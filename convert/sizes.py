"""How many GPUs convert a model, and how its layers are spread over them."""

import math
from dataclasses import dataclass

from convert.resources import PROCESS_BYTES
from planner.layout import Layout, PipelineSplit
from planner.parameters import rank_parameters
from planner.run import Run
from planner.units import GIB
from planner.workload import Workload

BYTES_PER_PARAMETER = 2  # weights only, in bf16
# What weights may take of a GPU; the rest is for the CUDA context and tensors in transit.
ASSUMED_WEIGHTS_FRACTION = 0.8
MOST_ROUNDING = 2  # of what is staged on the host: each tensor up to a power of two


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionSizes:
    """The parallel sizes of a conversion, with their reason."""

    num_nodes: int
    gpus_per_node: int
    split: PipelineSplit
    stage_bytes: int  # weights of the fullest GPU
    reason: str

    @property
    def world_size(self) -> int:
        """Processes, one a GPU."""
        return self.num_nodes * self.gpus_per_node


def conversion_sizes(run: Run) -> ConversionSizes:
    """Pipeline stages only, over the fewest nodes whose GPUs and hosts hold the weights.

    No step is trained, so that a pipeline costs nothing here: each GPU reads and holds a part of
    its own, whatever the numbers of heads and experts. Training loads it with other sizes.
    """
    machines = run.machines
    for num_nodes in range(1, machines.num_nodes + 1):
        world_size = num_nodes * machines.gpus_per_node
        split = conversion_split(run.model.num_layers, world_size)
        held = _largest_part_bytes(run, split, world_size)
        staged = machines.gpus_per_node * (PROCESS_BYTES + MOST_ROUNDING * held)
        on_gpu = held <= ASSUMED_WEIGHTS_FRACTION * machines.gpu_memory_bytes
        if on_gpu and staged <= (machines.host_memory_bytes or math.inf):
            break
    return ConversionSizes(
        num_nodes=num_nodes,
        gpus_per_node=machines.gpus_per_node,
        split=split,
        stage_bytes=held,
        reason=(
            f"The layers are spread over {split.num_stages} GPUs,"
            f" at most {held / GIB:.1f} GiB of weights on each."
        ),
    )


def conversion_split(num_layers: int, world_size: int) -> PipelineSplit:
    """As many stages as divide the GPUs and have a layer each; larger stages in the middle.

    The first and the last stage also hold the embedding and the head.
    """
    num_stages = max(n for n in range(1, num_layers + 1) if world_size % n == 0)
    size, larger = divmod(num_layers, num_stages)
    middle_first = sorted(range(num_stages), key=lambda stage: stage in (0, num_stages - 1))
    sizes = [size] * num_stages
    for stage in middle_first[:larger]:
        sizes[stage] += 1
    ends = [sum(sizes[: stage + 1]) for stage in range(num_stages)]
    return PipelineSplit(tuple(((end - size, end),) for end, size in zip(ends, sizes, strict=True)))


def _largest_part_bytes(run: Run, split: PipelineSplit, world_size: int) -> int:
    """Bytes of the weights of the largest stage."""
    layout = Layout(world_size=world_size, pp=split.num_stages, split=split)
    workload = Workload(mtp_num_layers=trained_mtp_layers(run))
    stages = range(split.num_stages)
    parameters = max(rank_parameters(run.model, layout, workload, stage).total for stage in stages)
    return parameters * BYTES_PER_PARAMETER


def trained_mtp_layers(run: Run) -> int:
    """MTP layers that are trained, and so converted."""
    layers = run.plan.args.get("mtp_num_layers", 0)
    assert isinstance(layers, int)
    return layers
