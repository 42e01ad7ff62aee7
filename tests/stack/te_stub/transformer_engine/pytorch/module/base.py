"""What all linear layers share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

INITIALIZER = Callable[[torch.Tensor], Any]
PARTITION_DIM = {"column": 0, "row": 1}


def divide(numerator: int, denominator: int) -> int:
    """Return the quotient; like the original, refuse one with a remainder."""
    assert numerator % denominator == 0, f"{numerator} is not divisible by {denominator}"
    return numerator // denominator


class TransformerEngineBaseModule(nn.Module):
    """A layer with weights [out_features, in_features], split by `parallel_mode` over a group.

    The real class takes many more arguments (FP8, overlap, fused gradient accumulation); they
    change neither parameters nor results and are accepted unread.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        return_bias: bool = False,
        sequence_parallel: bool = False,
        tp_group: Any = None,
        tp_size: int = 1,
        parallel_mode: str | None = None,
        init_method: INITIALIZER | None = None,
        params_dtype: torch.dtype = torch.float32,
        device: Any = "cpu",
        **_: object,
    ) -> None:
        super().__init__()
        self.in_features = divide(in_features, tp_size if parallel_mode == "row" else 1)
        self.out_features = divide(out_features, tp_size if parallel_mode == "column" else 1)
        self.use_bias = bias
        self.return_bias = return_bias
        self.sequence_parallel = sequence_parallel and tp_size > 1
        self.tp_group = tp_group
        self.tp_size = tp_size
        self.parallel_mode = parallel_mode
        self.init_method = init_method
        self.params_dtype = params_dtype
        self.device = device
        self.save_original_input = False
        self.fp8 = self.fp8_calibration = False
        self.fp8_meta = {"fp8_checkpoint": False}

    def set_tensor_parallel_group(self, tp_group: Any) -> None:
        """Use this group for collectives."""
        self.tp_group = tp_group

    def init_fp8_metadata(self, num_gemms: int = 1) -> None:
        """Do nothing: there is no FP8."""

    def get_extra_state(self) -> torch.Tensor:
        """Return the empty tensor in which the real layers store FP8 scales."""
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Accept what `get_extra_state` gave."""

    def new_weight(self) -> nn.Parameter:
        """Return an initialised weight, marked as megatron-core expects."""
        shape = (self.out_features, self.in_features)
        weight = nn.Parameter(torch.empty(shape, dtype=self.params_dtype, device=self.device))
        if self.init_method is not None and not weight.is_meta:
            with torch.no_grad():
                self.init_method(weight)
        self.mark_partition(weight, PARTITION_DIM.get(self.parallel_mode or ""))
        return weight

    def new_bias(self) -> nn.Parameter:
        """Return a zero [out_features] parameter."""
        bias = nn.Parameter(
            torch.zeros(self.out_features, dtype=self.params_dtype, device=self.device)
        )
        self.mark_partition(bias, 0 if self.parallel_mode == "column" else None)
        if self.parallel_mode == "row":
            bias.sequence_parallel = self.sequence_parallel  # type: ignore[attr-defined]  # Megatron's mark
        return bias

    @staticmethod
    def mark_partition(parameter: Any, dim: int | None) -> None:
        """Say along which dimension a parameter is split over the tensor-parallel group."""
        parameter.tensor_model_parallel = dim is not None
        parameter.partition_dim = -1 if dim is None else dim
        parameter.partition_stride = 1

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input of a column-parallel product: gathered, or with its gradient reduced."""
        if self.parallel_mode != "column" or self.tp_size == 1:
            return x
        from megatron.core.tensor_parallel import mappings

        if self.sequence_parallel:
            return mappings.gather_from_sequence_parallel_region(x, group=self.tp_group)
        return mappings.copy_to_tensor_model_parallel_region(x, group=self.tp_group)

    def leave(self, y: torch.Tensor) -> torch.Tensor:
        """Return the output of a row-parallel product: reduced, or reduced and scattered."""
        if self.parallel_mode != "row" or self.tp_size == 1:
            return y
        from megatron.core.tensor_parallel import mappings

        if self.sequence_parallel:
            return mappings.reduce_scatter_to_sequence_parallel_region(y, group=self.tp_group)
        return mappings.reduce_from_tensor_model_parallel_region(y, group=self.tp_group)
