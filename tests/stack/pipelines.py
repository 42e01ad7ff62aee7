"""The order in which megatron-core's own schedules run the passes of a stage.

Runs inside the worker.
"""

from types import SimpleNamespace
from typing import Any

import torch
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.pipeline_parallel import schedules
from megatron.core.process_groups_config import ProcessGroupCollection

Pass = tuple[str, int, int]


class _Group:
    """Ranks of which this process is one."""

    def __init__(self, size: int, rank: int = 0) -> None:
        self._size, self._rank = size, rank

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return self._rank


class _Mailbox:
    """Gives a tensor for every one that is asked for, at once."""

    def __init__(self, group: _Group, num_virtual_stages: int | None) -> None:
        self.pp_group = group
        self.virtual_pipeline_model_parallel_size = num_virtual_stages
        self.total_stages, self.current_stage = group.size(), group.rank()
        self.is_pp_first_stage = self.current_stage == 0
        self.is_pp_last_stage = self.current_stage == self.total_stages - 1

    def __getattr__(self, name: str) -> Any:
        def exchange(*_: object, **options: Any) -> Any:
            received = torch.zeros(1)
            if options.get("overlap_p2p_comm"):
                waits = [each for each in ("recv_prev", "recv_next") if options.get(each)]
                return received, {each: SimpleNamespace(wait=lambda: None) for each in waits}
            both = name == "send_forward_backward_recv_forward_backward"
            return (received, received) if both else received

        return exchange


def pass_order(
    num_stages: int, num_virtual_stages: int, num_microbatches: int, group: int, stage: int
) -> list[Pass]:
    """Passes of a stage (kind, chunk, microbatch) as forward_backward_pipelining_* runs them."""
    ran: list[Pass] = []
    interleaved = num_virtual_stages > 1

    def forward_step(*_: object, **options: Any) -> tuple[Any, torch.Tensor]:
        chunk = options["vp_stage"] if interleaved else 0
        ran.append(("forward", chunk, options["current_microbatch"]))
        output = SimpleNamespace(made=(chunk, options["current_microbatch"]))
        return output if interleaved else [output], torch.zeros([], dtype=torch.int)

    def backward_step(_: object, output: Any, *__: object) -> torch.Tensor:
        made = output if interleaved else output[0]
        ran.append(("backward", *made.made))
        return torch.zeros(1)

    pp_group, alone = _Group(num_stages, stage), _Group(1)
    config = ModelParallelConfig(pipeline_dtype=torch.bfloat16, overlap_p2p_comm=interleaved)
    config.__dict__.update(
        hidden_size=1,
        batch_p2p_comm=not interleaved,
        fine_grained_activation_offloading=False,
        virtual_pipeline_model_parallel_size=num_virtual_stages if interleaved else None,
        microbatch_group_size_per_vp_stage=group,
    )
    replaced = {
        "forward_step": forward_step,
        "backward_step": backward_step,
        "deallocate_output_tensor": lambda *_: None,
        "get_model_config": lambda _: config,
        "get_model_type": lambda _: None,
    }
    original = {name: getattr(schedules, name) for name in replaced}
    chunks = [torch.nn.Identity() for _ in range(num_virtual_stages)]
    run = (
        schedules.forward_backward_pipelining_with_interleaving
        if interleaved
        else schedules.forward_backward_pipelining_without_interleaving
    )
    vars(schedules).update(replaced)
    try:
        run(
            forward_step_func=None,
            data_iterator=[None] * num_virtual_stages if interleaved else None,
            model=chunks if interleaved else chunks[0],
            num_microbatches=num_microbatches,
            seq_length=1,
            micro_batch_size=1,
            p2p_communicator=_Mailbox(pp_group, num_virtual_stages if interleaved else None),
            pg_collection=ProcessGroupCollection(
                tp=alone, cp=alone, pp=pp_group, embd=None, pos_embd=None, dp_cp=alone
            ),
        )
    finally:
        vars(schedules).update(original)
    return ran
