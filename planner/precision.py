"""Bytes of what training keeps beside bf16 weights and activations, as the settings have them.

Sources: megatron-core 0.16.1, megatron/core (mc); Transformer Engine 2.12.0, transformer_engine/
pytorch (te); ms-swift 4.6.0, swift/megatron.
"""

from dataclasses import dataclass

from planner.settings import Settings

Capability = tuple[int, int]

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
FP32 = _BYTES["fp32"]

# Weights and gradients on the host are pinned, a tensor at a time, and torch rounds each up to a
# power of two (aten/src/ATen/core/CachingHostAllocator.h): by a half, between nothing and as much.
ASSUMED_PINNED_ROUNDING = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBytes:
    """Bytes a trainable element.

    Gradients are whole on every rank; `master` and `moments` are of the elements whose states the
    rank has, `widened` what the optimizer step takes besides for a moment, `host` in the memory of
    the node, and `transferred` between both in a step. `remade` is what loading a checkpoint
    makes once more (te/optimizers/fused_adam.py: load_state_dict): moments, and with the
    precision-aware optimizer all states and what is widened of them.
    """

    gradient: float = 4
    master: float = 4
    moments: float = 8
    widened: float = 0
    host: float = 0
    transferred: float = 0

    remade: float = 8  # made once more while a checkpoint is loaded

    states: int = 3  # master weights and moments, each widened to fp32 in a checkpoint

    @property
    def saved(self) -> int:
        """In a checkpoint (te/optimizers/fused_adam.py: state_dict)."""
        return self.states * FP32


def state_bytes(settings: Settings) -> StateBytes:
    """Bytes of gradients and of the states that the optimizer keeps."""
    states = _of_sgd(settings) if settings.optimizer == "sgd" else _of_adam(settings)
    return _offloaded(settings, states) if settings.optimizer_cpu_offload else states


def _of_sgd(settings: Settings) -> StateBytes:
    """fp32 weights and one momentum (te/optimizers/fused_sgd.py: momentum_buffer)."""
    return StateBytes(gradient=settings.gradient_bytes, moments=FP32, remade=FP32, states=2)


def _of_adam(settings: Settings) -> StateBytes:
    """fp32 states, or with the precision-aware optimizer those of the named types.

    fp32 master weights of bf16 weights are then their 16 lower bits (mc/optimizer/
    optimizer_config.py: store_param_remainders), but for fp8 recipes other than delayed, where
    Megatron-Core keeps them whole. States below fp32 are widened for the step, all of a group at
    once (te/optimizers/fused_adam.py: step).
    """
    if not settings.use_precision_aware_optimizer:
        return StateBytes(gradient=settings.gradient_bytes)
    moments = (settings.exp_avg_dtype, settings.exp_avg_sq_dtype)
    narrow = [dtype for dtype in (*moments, settings.main_params_dtype) if dtype != "fp32"]
    whole = settings.fp8_format is not None and settings.fp8_recipe != "delayed"
    in_fp32 = settings.main_params_dtype == "fp32"
    master = FP32 if in_fp32 and whole else _BYTES["bf16"]
    size, widened = sum(_BYTES[dtype] for dtype in moments), FP32 * len(narrow)
    return StateBytes(
        gradient=settings.gradient_bytes,
        master=master,
        moments=size,
        widened=widened,
        remade=master + size + widened,
    )


def _offloaded(settings: Settings, states: StateBytes) -> StateBytes:
    """States of which a fraction lies on the host, in fp32: weights, moments and gradients.

    The master weights stay on the GPU as well, but with the precision-aware optimizer, whose states
    are all in fp32 here and whose gradients are widened (mc/optimizer/cpu_offloading/
    hybrid_optimizer.py: _get_sub_optimizer_param_groups, _set_sub_optimizer_grads).
    """
    away = settings.optimizer_offload_fraction
    moments = FP32 if settings.optimizer == "sgd" else 2 * FP32
    aware = settings.use_precision_aware_optimizer
    return StateBytes(
        gradient=states.gradient,
        states=states.states,
        master=FP32 * (1 - away) if aware else FP32,
        moments=moments * (1 - away),
        remade=moments * (1 - away),
        widened=FP32 * (1 - away) if aware and states.gradient < FP32 else 0,
        host=away * (2 * FP32 * ASSUMED_PINNED_ROUNDING + moments),
        transferred=away * (states.gradient + FP32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Recipe:
    """What a recipe needs and keeps: bytes are of an element of one quantized tensor."""

    least: Capability  # compute capability of the GPU
    below: Capability = (99, 0)
    features: int  # sizes of matrices are multiples of it
    tokens: int  # ms-swift pads a rank's sequence to it (utils/utils.py: get_padding_to)
    input_bytes: float
    weight_bytes: float


# te/quantization.py: check_*_support; te/utils.py: assert_dim_for_fp8_exec; the scales are those of
# te/tensor/float8_blockwise_tensor.py (fp32 of 1x128, weights of 128x128) and mxfp8_tensor.py (of
# 32 elements, a byte).
_PER_TENSOR = Fp8Recipe(least=(8, 9), features=16, tokens=16, input_bytes=1, weight_bytes=1)
FP8_RECIPES: dict[str, Fp8Recipe] = {
    "delayed": _PER_TENSOR,
    "tensorwise": _PER_TENSOR,
    "blockwise": Fp8Recipe(
        least=(9, 0),
        features=16,
        tokens=128,
        input_bytes=1 + 4 / 128,
        weight_bytes=1 + 4 / 128**2,
    ),
    "mxfp8": Fp8Recipe(
        least=(10, 0),
        below=(12, 0),
        features=32,
        tokens=32,
        input_bytes=1 + 1 / 32,
        weight_bytes=1 + 1 / 32,
    ),
}


def fp8_recipe(settings: Settings) -> Fp8Recipe | None:
    """The recipe of matrix products in fp8; None: they are in bf16."""
    return None if settings.fp8_format is None else FP8_RECIPES[settings.fp8_recipe]


def fp8_copy_bytes(settings: Settings) -> float:
    """Of an element of a linear layer's weight, beside its two bytes: quantized for either
    direction, and kept over the microbatches (te/module/base.py: get_weight_workspace).

    Weights kept in fp8 have both directions in the place of their two bytes.
    """
    recipe = fp8_recipe(settings)
    if recipe is None:
        return 0.0
    both = 2 * recipe.weight_bytes
    return both - 2 if settings.fp8_param_gather else both
