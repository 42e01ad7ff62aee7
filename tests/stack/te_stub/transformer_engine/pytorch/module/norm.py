"""Norms."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def normalize(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """Return LayerNorm(x) with a bias and RMSNorm(x) without one, computed in fp32."""
    y, shape = x.float(), (x.shape[-1],)
    if bias is None:
        y = functional.rms_norm(y, shape, weight.float(), eps)
    else:
        y = functional.layer_norm(y, shape, weight.float(), bias.float(), eps)
    return y.to(x.dtype)


def new_norm_parameter(size: int, value: float, owner: Any) -> nn.Parameter:
    """Return a [size] parameter that says whether sequence parallelism splits its gradient."""
    data = torch.full((size,), value, dtype=owner.params_dtype, device=owner.device)
    parameter = nn.Parameter(data)
    parameter.sequence_parallel = owner.sequence_parallel  # type: ignore[attr-defined]  # Megatron's mark
    return parameter


class RMSNorm(nn.Module):
    """Root-mean-square norm. Parameters: weight."""

    with_bias = False

    def __init__(
        self,
        normalized_shape: int | None = None,
        eps: float = 1e-5,
        *,
        hidden_size: int | None = None,
        sequence_parallel: bool = False,
        params_dtype: torch.dtype = torch.float32,
        zero_centered_gamma: bool = False,
        device: Any = "cpu",
    ) -> None:
        super().__init__()
        size = normalized_shape or hidden_size
        assert size is not None
        self.eps = eps
        self.sequence_parallel = sequence_parallel
        self.params_dtype = params_dtype
        self.device = device
        self.zero_centered_gamma = zero_centered_gamma
        self.weight = new_norm_parameter(size, 0.0 if zero_centered_gamma else 1.0, self)
        self.bias = new_norm_parameter(size, 0.0, self) if self.with_bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the norm of the last dimension."""
        weight = self.weight + 1 if self.zero_centered_gamma else self.weight
        return normalize(x, weight, self.bias, self.eps)


class LayerNorm(RMSNorm):
    """Layer norm. Parameters: weight, bias."""

    with_bias = True
