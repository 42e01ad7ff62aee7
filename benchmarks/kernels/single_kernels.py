"""Times single kernels by shape on one GPU, through Transformer Engine as layers call them.

    python single_kernels.py RESULTS --seconds S

Each result has the kernel, its direction and shape, `seconds` on the device (median), and for those
that launch many kernels `host_seconds`, what the host takes to launch them. Kinds take turns, and
shapes come by lot, so that a run that ends early has some of all.
"""

import argparse
import functools
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformer_engine.pytorch as te
from elementwise import elementwise
from timing import Case, back, both, device_seconds, random_tensor
from transformer_engine.pytorch.cpp_extensions import general_gemm

BF16 = torch.bfloat16

# in and out features of products in published models and their parts of 1/2 to 1/8
FEATURES = [
    (2048, 5120), (4096, 2048), (2048, 2560), (2048, 2048), (2048, 1280), (1024, 2048),
    (2048, 11264), (5632, 2048), (2048, 3072), (3584, 4608), (3584, 3584), (3584, 37888),
    (18944, 3584), (3584, 9472), (4736, 3584), (4096, 6144), (4096, 4096), (4096, 28672),
    (14336, 4096), (4096, 7168), (3584, 4096), (4096, 9216), (8192, 4096), (7168, 1536),
    (7168, 576), (1536, 24576), (512, 32768), (16384, 7168), (7168, 36864), (18432, 7168),
    (2048, 576), (512, 4096), (1536, 6144), (2048, 151936), (4096, 151936), (3584, 37984),
    (5120, 5120), (8192, 57344), (1024, 1024), (2048, 128),
]  # fmt: skip
ROWS = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
LARGEST_FLOPS = 6e12

# in and out features of an expert
EXPERTS = [
    (2048, 1536), (768, 2048), (4096, 3072), (1536, 4096), (7168, 4096), (2048, 7168),
    (2048, 2816), (1408, 2048), (3584, 5120), (2560, 3584), (2048, 768), (384, 2048),
]  # fmt: skip
EXPERT_NUMBERS = [1, 2, 4, 8, 16, 32, 64, 128]
EXPERT_ROWS = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
LARGEST_GROUP = 2**31  # elements of activations and weights together

# heads, groups, and head dimension
HEADS = [
    (32, 4, 128), (32, 8, 128), (28, 4, 128), (16, 16, 128), (64, 4, 128), (8, 1, 128),
    (16, 16, 192), (128, 128, 192), (32, 32, 192), (32, 4, 64), (7, 1, 128), (16, 2, 256),
]  # fmt: skip
# of what two GPUs train first (benchmarks/steptime/two_gpus.py), with packs of more documents
FIRST_HEADS = [(32, 4, 128), (16, 16, 192)]
FIRST_PACKS = [(4096, 1), (8192, 1), (8192, 2), (8192, 8), (4096, 8), (16384, 2)]
PACKS = [
    (8192, 4), (8192, 1), (8192, 16), (2048, 1), (4096, 1), (4096, 4), (16384, 4), (16384, 1),
    (16384, 16), (32768, 4), (32768, 1),
]  # fmt: skip


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    torch.manual_seed(0)
    lot = random.Random(0)
    kinds = [KINDS[name](lot) for name in arguments.kinds]
    spent = [0.0 for _ in kinds]
    with arguments.results.open("a", encoding="utf-8") as file:
        while kinds and time.monotonic() < end:
            place = spent.index(min(spent))
            started = time.monotonic()
            try:
                for result in next(kinds[place])():
                    file.write(json.dumps(result) + "\n")
            except StopIteration:
                del kinds[place], spent[place]
                continue
            except Exception as error:  # the next shape must go on
                file.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}) + "\n")
                torch.cuda.empty_cache()
            file.flush()
            spent[place] += time.monotonic() - started


def _gemms(lot: random.Random) -> Iterator[Case]:
    shapes = [
        (rows, k, n)
        for (k, n), rows in itertools.product(FEATURES, ROWS)
        if 2 * rows * k * n <= LARGEST_FLOPS
    ]
    lot.shuffle(shapes)
    for shape in shapes:
        yield functools.partial(_gemm, *shape)


def _gemm(rows: int, k: int, n: int) -> Iterator[dict[str, Any]]:
    inputs, weights, grads = random_tensor(rows, k), random_tensor(n, k), random_tensor(rows, n)
    main_grad = torch.zeros(n, k, device="cuda")
    directions = {
        "forward": lambda: general_gemm(weights, inputs, out_dtype=BF16),
        "data": lambda: general_gemm(weights, grads, out_dtype=BF16, layout="NN", grad=True),
        "weight": lambda: general_gemm(inputs, grads, out_dtype=BF16, layout="NT", grad=True),
        "weight_fp32": lambda: general_gemm(
            inputs, grads, out_dtype=torch.float32, layout="NT", grad=True,
            out=main_grad, accumulate=True,
        ),
    }  # fmt: skip
    for direction, call in directions.items():
        seconds = device_seconds(call)
        yield {"kernel": "gemm", "direction": direction, "rows": rows, "in": k, "out": n,
               "seconds": seconds}  # fmt: skip


def _groups(lot: random.Random) -> Iterator[Case]:
    shapes = [
        (experts, rows, k, n)
        for (k, n), experts, rows in itertools.product(EXPERTS, EXPERT_NUMBERS, EXPERT_ROWS)
        if experts * (rows * (k + n) + 2 * k * n) <= LARGEST_GROUP and experts * rows <= 262144
    ]
    lot.shuffle(shapes)
    for shape in shapes:
        yield functools.partial(_group, *shape)


def _group(experts: int, rows: int, k: int, n: int) -> Iterator[dict[str, Any]]:
    # without initialization, which takes longer than the products
    linear = te.GroupedLinear(
        experts, k, n, bias=False, params_dtype=BF16, init_method=lambda weight: None
    )
    inputs = random_tensor(experts * rows, k).requires_grad_()
    grads, splits = random_tensor(experts * rows, n), [rows] * experts
    parameters = list(linear.parameters())
    for parameter in parameters:
        parameter.data.normal_(0.0, 0.02)
    shape = {"kernel": "grouped", "experts": experts, "rows": rows, "in": k, "out": n}
    yield shape | {"direction": "forward"} | both(lambda _: linear(inputs, splits))
    wanted = {"data": [inputs], "weight": parameters, "backward": [inputs, *parameters]}
    for direction, tensors in wanted.items():
        inputs.requires_grad_(direction != "weight")
        for parameter in parameters:
            parameter.requires_grad_(direction != "data")
        backward = functools.partial(back, tensors, grads)
        yield shape | {"direction": direction} | both(backward, lambda: linear(inputs, splits))


def _attentions(lot: random.Random) -> Iterator[Case]:
    shapes = list(itertools.product(HEADS, PACKS))
    lot.shuffle(shapes)
    shapes = [*itertools.product(FIRST_HEADS, FIRST_PACKS), *shapes]
    for heads, pack in shapes:
        yield functools.partial(_attention, *heads, *pack)


def _attention(
    heads: int, groups: int, width: int, tokens: int, documents: int
) -> Iterator[dict[str, Any]]:
    attention = te.DotProductAttention(
        heads, width, num_gqa_groups=groups, qkv_format="thd", attn_mask_type="padding_causal",
        attention_dropout=0.0,
    )  # fmt: skip
    length = tokens // documents
    borders = torch.arange(0, tokens + 1, length, dtype=torch.int32, device="cuda")
    query = random_tensor(tokens, heads, width).requires_grad_()
    key = random_tensor(tokens, groups, width).requires_grad_()
    value = random_tensor(tokens, groups, width).requires_grad_()
    grads = random_tensor(tokens, heads * width)
    forward = functools.partial(
        attention, query, key, value, cu_seqlens_q=borders, cu_seqlens_kv=borders,
        max_seqlen_q=length, max_seqlen_kv=length,
    )  # fmt: skip
    shape = {"kernel": "attention", "heads": heads, "groups": groups, "width": width,
             "tokens": tokens, "documents": documents}  # fmt: skip
    yield shape | {"direction": "forward"} | both(lambda _: forward())
    backward = functools.partial(back, [query, key, value], grads)
    yield shape | {"direction": "backward"} | both(backward, forward)


def _copies(_: random.Random) -> Iterator[Case]:
    for power in range(20, 31, 2):
        yield functools.partial(_copy, 2**power)


def _copy(size: int) -> Iterator[dict[str, Any]]:
    one, other = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    yield {"kernel": "copy", "bytes": size, "seconds": device_seconds(lambda: other.copy_(one))}


KINDS: dict[str, Callable[[random.Random], Iterator[Case]]] = {
    "gemm": _gemms,
    "grouped": _groups,
    "attention": _attentions,
    "copy": _copies,
    "elementwise": elementwise,
}


if __name__ == "__main__":
    main()
