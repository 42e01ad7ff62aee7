"""Kernels that read and write more than they compute, as layers call them."""

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformer_engine.pytorch as te
from timing import BF16, Case, back, both, device_seconds, random_tensor
from transformer_engine.pytorch.permutation import moe_permute_with_probs, moe_unpermute

ROWS = [4096, 16384]
WIDTHS = [2048, 4096, 7168]
ROUTED = [(4096, 2048, 128, 8), (8192, 2048, 64, 6), (4096, 4096, 128, 8)]  # rows, width, experts
ELEMENTS = [2**24, 2**27]


def elementwise(lot: random.Random) -> Iterator[Case]:
    """Norms, SwiGLU, permutations, sums, Adam and the zeroing of gradients, by lot."""
    cases: list[Case] = [functools.partial(_adam, number) for number in ELEMENTS]
    cases += [functools.partial(_buffers, number) for number in ELEMENTS]
    for rows, width in itertools.product(ROWS, WIDTHS):
        cases += [functools.partial(each, rows, width) for each in (_norm, _swiglu, _sum)]
    cases += [functools.partial(_permute, *shape) for shape in ROUTED]
    lot.shuffle(cases)
    yield from cases


def _pair(
    shape: dict[str, Any],
    call: Callable[[], torch.Tensor],
    wanted: list[torch.Tensor],
    grads: torch.Tensor,
) -> Iterator[dict[str, Any]]:
    yield shape | {"direction": "forward"} | both(lambda _: call())
    backward = functools.partial(back, wanted, grads)
    yield shape | {"direction": "backward"} | both(backward, call)


def _norm(rows: int, width: int) -> Iterator[dict[str, Any]]:
    norm = te.RMSNorm(width, dtype=BF16, device="cuda")
    inputs = random_tensor(rows, width).requires_grad_()
    shape = {"kernel": "rms_norm", "rows": rows, "width": width}
    wanted = [inputs, *norm.parameters()]
    yield from _pair(shape, lambda: norm(inputs), wanted, random_tensor(rows, width))


def _swiglu(rows: int, width: int) -> Iterator[dict[str, Any]]:
    from megatron.core.fusions.fused_bias_swiglu import bias_swiglu_impl, weighted_bias_swiglu_impl

    inputs = random_tensor(rows, 2 * width).requires_grad_()
    weights = torch.rand(rows, 1, device="cuda").requires_grad_()
    grads = random_tensor(rows, width)
    shape = {"kernel": "swiglu", "rows": rows, "width": width}
    yield from _pair(shape, lambda: bias_swiglu_impl(inputs, None), [inputs], grads)
    call = functools.partial(weighted_bias_swiglu_impl, inputs, None, weights)
    yield from _pair(shape | {"kernel": "weighted_swiglu"}, call, [inputs, weights], grads)


def _sum(rows: int, width: int) -> Iterator[dict[str, Any]]:
    one, other = random_tensor(rows, width), random_tensor(rows, width)
    seconds = device_seconds(lambda: torch.add(one, other))
    yield {"kernel": "sum", "rows": rows, "width": width, "seconds": seconds}


def _permute(rows: int, width: int, experts: int, topk: int) -> Iterator[dict[str, Any]]:
    inputs = random_tensor(rows, width).requires_grad_()
    chosen = torch.rand(rows, experts, device="cuda").topk(topk).indices
    routing = torch.zeros(rows, experts, dtype=torch.bool, device="cuda")
    routing.scatter_(1, chosen, True)
    probabilities = torch.rand(rows, experts, device="cuda").requires_grad_()
    shape = {"kernel": "permute", "rows": rows, "width": width, "experts": experts, "topk": topk}
    call = functools.partial(
        moe_permute_with_probs, inputs, probabilities, routing, num_out_tokens=rows * topk
    )
    grads = random_tensor(rows * topk, width)
    yield from _pair(shape, lambda: call()[0], [inputs], grads)
    permuted, _, places = call()
    permuted = permuted.detach().requires_grad_()
    again = functools.partial(moe_unpermute, permuted, places, restore_shape=inputs.shape)
    grads = random_tensor(rows, width)
    yield from _pair(shape | {"kernel": "unpermute"}, again, [permuted], grads)


def _adam(number: int) -> Iterator[dict[str, Any]]:
    weights = torch.zeros(number, device="cuda", requires_grad=True)
    weights.grad = torch.ones_like(weights)
    optimizer = te.optimizers.FusedAdam([weights], lr=1e-5)
    optimizer.step()
    yield {"kernel": "adam", "elements": number, "seconds": device_seconds(optimizer.step)}


def _buffers(number: int) -> Iterator[dict[str, Any]]:
    buffer = torch.ones(number, device="cuda")
    yield {"kernel": "zero", "elements": number, "seconds": device_seconds(buffer.zero_)}
    yield {
        "kernel": "scale",
        "elements": number,
        "seconds": device_seconds(lambda: buffer.mul_(1.0)),
    }
    yield {"kernel": "norm", "elements": number, "seconds": device_seconds(buffer.norm)}
