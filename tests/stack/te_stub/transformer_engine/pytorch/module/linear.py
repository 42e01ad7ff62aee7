"""Linear layers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from transformer_engine.pytorch.module.base import TransformerEngineBaseModule
from transformer_engine.pytorch.module.norm import new_norm_parameter, normalize


class Linear(TransformerEngineBaseModule):
    """y = x W^T (+ b). Parameters: weight, bias."""

    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(in_features, out_features, **options)
        self.weight = self.new_weight()
        self.bias = self.new_bias() if self.use_bias else None

    def forward(self, inp: torch.Tensor, is_first_microbatch: bool | None = None) -> Any:
        """Return y, or (y without the bias, bias) if `return_bias`."""
        bias = None if self.return_bias else self.bias
        y = self.leave(functional.linear(self.enter(inp), self.weight))
        y = y if bias is None else y + bias
        return (y, self.bias) if self.return_bias else y


class LayerNormLinear(Linear):
    """A linear layer of the normalised input. Parameters: `Linear`'s, layer_norm_weight, _bias."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        eps: float = 1e-5,
        normalization: str = "LayerNorm",
        zero_centered_gamma: bool = False,
        return_layernorm_output: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, **options)
        self.eps = eps
        self.return_layernorm_output = return_layernorm_output
        self.zero_centered_gamma = zero_centered_gamma
        self.layer_norm_weight = new_norm_parameter(
            self.in_features, 0.0 if zero_centered_gamma else 1.0, self
        )
        self.layer_norm_bias = None
        if normalization == "LayerNorm":
            self.layer_norm_bias = new_norm_parameter(self.in_features, 0.0, self)

    def forward(self, inp: torch.Tensor, is_first_microbatch: bool | None = None) -> Any:
        """Return what `Linear` gives, and the normalised input if `return_layernorm_output`."""
        scale = self.layer_norm_weight + 1 if self.zero_centered_gamma else self.layer_norm_weight
        normalized = normalize(inp, scale, self.layer_norm_bias, self.eps)
        output = super().forward(normalized)
        if not self.return_layernorm_output:
            return output
        return (*output, normalized) if self.return_bias else (output, normalized)


class GroupedLinear(TransformerEngineBaseModule):
    """One linear layer per expert over its rows of the input. Parameters: weight0.., bias0.."""

    def __init__(self, num_gemms: int, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(in_features, out_features, **options)
        self.num_gemms = num_gemms
        for i in range(num_gemms):
            self.register_parameter(f"weight{i}", self.new_weight())
        for i in range(num_gemms if self.use_bias else 0):
            self.register_parameter(f"bias{i}", self.new_bias())

    def _group(self, name: str) -> list[nn.Parameter]:
        return [getattr(self, f"{name}{i}") for i in range(self.num_gemms)]

    def forward(
        self,
        inp: torch.Tensor,
        m_splits: Sequence[int] | torch.Tensor,
        is_first_microbatch: bool | None = None,
    ) -> Any:
        """Return the rows, `m_splits[i]` of expert i, or (rows, biases) if `return_bias`."""
        rows = [int(size) for size in m_splits]
        parts = torch.split(inp, rows)
        outputs = [
            functional.linear(x, w) for x, w in zip(parts, self._group("weight"), strict=True)
        ]
        if self.use_bias and not self.return_bias:
            outputs = [y + b for y, b in zip(outputs, self._group("bias"), strict=True)]
        y = torch.cat(outputs)
        return (y, self._group("bias")) if self.return_bias else y

    def backward_dw(self) -> None:
        """Do nothing: weight gradients are never delayed here."""

    @staticmethod
    def _encode_extra_state(state: object) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    @staticmethod
    def _decode_extra_state(state: object) -> None:
        return None
