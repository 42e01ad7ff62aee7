"""What megatron-core, mcore-bridge and ms-swift read of `transformer_engine.pytorch`."""

from transformer_engine.pytorch import attention, distributed, fp8, module, ops, permutation, router
from transformer_engine.pytorch.attention import DotProductAttention
from transformer_engine.pytorch.fp8 import Fp8Padding, Fp8Unpadding
from transformer_engine.pytorch.module.linear import GroupedLinear, LayerNormLinear, Linear
from transformer_engine.pytorch.module.norm import LayerNorm, RMSNorm

__all__ = [
    "DotProductAttention",
    "Fp8Padding",
    "Fp8Unpadding",
    "GroupedLinear",
    "LayerNorm",
    "LayerNormLinear",
    "Linear",
    "RMSNorm",
    "attention",
    "distributed",
    "fp8",
    "module",
    "ops",
    "permutation",
    "router",
]
