"""Stands in for apex's kernel that adds weight gradients in place, where apex is not installed.

With `gradient_accumulation_fusion` Transformer Engine's layers need nothing but the flag. The
output layer is Megatron-Core's own and calls apex's kernel (megatron-core 0.18.1,
tensor_parallel/layers.py:598), and ms-swift 4.6.0 drops the flag where `import apex` fails
(arguments/megatron_args.py:902). The same product is one of Transformer Engine's.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

KERNEL = "fused_weight_gradient_mlp_cuda"
NAMES = ("wgrad_gemm_accum_fp32", "wgrad_gemm_accum_fp16")  # by the type of the gradient


def stand_in() -> None:
    """Make the kernel importable. To be called before Megatron-Core is imported."""
    if importlib.util.find_spec(KERNEL):
        return
    kernel = _module(KERNEL)
    for name in NAMES:
        setattr(kernel, name, add_weight_gradient)
    if not importlib.util.find_spec("apex"):
        _module("apex")


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, loader=None)  # without it find_spec refuses to answer
    sys.modules[name] = module
    return module


def add_weight_gradient(inputs: Any, output_gradients: Any, gradient: Any) -> None:
    """Add the transposed gradients of outputs times the inputs to the gradient, in its type.

    Shapes: (tokens, in), (tokens, out), (out, in).
    """
    from transformer_engine.pytorch.cpp_extensions import general_gemm

    general_gemm(
        inputs,
        output_gradients,
        out_dtype=gradient.dtype,
        layout="NT",
        out=gradient,
        accumulate=True,
        grad=True,
    )
