"""The text of memory.md, from the planner's tables."""

from formulas import formula_of
from tables import code, table

from planner import activations, checkpoint_memory, layer_moments, memory, memory_terms
from planner.activations import SAVED
from planner.communicators import ALONE_BYTES, KERNELS_BYTES, MESSAGE_BYTES, RING_BYTES
from planner.memory_terms import TERMS
from planner.stage_shape import Moment
from planner.units import GIB, MIB
from planner.verdict import MARGIN_FRACTION
from planner.workload import ASSUMED_ROUTING_IMBALANCE

MOMENTS = {
    Moment.BUILD: "model and optimizer are made, nothing has run",
    Moment.STEADY: "between steps, from the second on",
    Moment.LAYER: "in a layer's forward or backward pass, all microbatches in flight",
    Moment.LOSS: "in the cross entropy, on the last stage only",
    Moment.HEAD: "in the backward pass of the output layer, on the last stage only",
    Moment.EMBEDDING: "at the end of a microbatch's backward pass, on the first stage only",
    Moment.OPTIMIZER: "in the optimizer step",
}
LAYERS = {
    "any": "all",
    "gqa": "with grouped-query attention",
    "mla": "with multi-latent attention",
    "dense": "dense",
    "moe": "sparse",
}

MEMORY = f"""\
# Memory

Written by `docs/generate.py` from `planner/memory_terms.py`, `planner/activations.py`,
`planner/layer_moments.py` and `planner/checkpoint_memory.py`. `mc` is megatron/core, `te`
Transformer Engine. What the model was measured against:
[benchmarks/memory](../benchmarks/memory/README.md).

For every pipeline stage the planner adds up what the worst rank holds at each of these moments;
`peak_allocated` is the largest sum, and the terms of `plan --json` are those alive then.

{{moments}}

What a job dies of is more than that:

- `peak_reserved` adds what torch's allocator cannot use, with expandable segments:
  {memory.HOLES_OF_WORKING_MEMORY:.0%} of working memory ({memory.HOLES_OF_WORKING_MEMORY_LORA:.0%}
  with LoRA), {memory.HOLES_OF_EXPERT_ROWS} times the hidden states that experts get,
  {memory.HOLES_OF_LOGITS} of the logits of the last of several stages, and
  {memory.WAITING_WEIGHT_GRADIENTS} of a layer's weight gradients where they are not fused;
- `device_used` adds {memory.CUDA_CONTEXT_BYTES / GIB:.2f} GiB for the CUDA context and `nccl`:
  {KERNELS_BYTES / MIB:.0f} MiB, and a communicator of NCCL for each process group that the rank
  speaks in. One of a single rank has {ALONE_BYTES / MIB:.0f} MiB, one of two ranks over NVLink
  {RING_BYTES / MIB:.0f}. Messages over NVLink take {MESSAGE_BYTES / MIB:.0f} for every peer: EP8 in
  one host {7 * MESSAGE_BYTES / GIB:.1f} GiB. The first rank gets some from all others as it saves.
  Groups of more than two ranks and networks follow from NCCL's source, and were not measured.

`peak_allocated` is at even routing; the verdict is taken at `--routing-imbalance`, or at
{ASSUMED_ROUTING_IMBALANCE} without it. A plan `fits` with {MARGIN_FRACTION:.1%} of what it needs to
spare, which is what nine of ten errors were within on ranks that no constant was fitted to; it is
`tight` up to what torch sees of the GPU, and `exceeds` beyond. `odds_of_fitting` is the probability
if errors are spread as they were there.

## Terms

Tokens, heads, experts and parameters are those of one rank.

{{terms}}

## What a layer keeps for its backward pass

The sum over the layers of a stage, times the microbatches in flight, is the term
`saved_activations`. A module of `recompute_modules` gives up the tensors that name it; a layer that
is recomputed as a whole keeps only its input. LoRA keeps as much, for its adapters. `in_fp8(x)` is
the quantized input with fp8 products, else x. Recomputing `core_attn` costs memory with
grouped-query attention: the whole qkv tensor is kept besides q and k, and fused attention has
nothing to give up. Sources are lines of megatron-core 0.18.1, mcore-bridge 1.6.5 and Transformer
Engine 2.12.0.

{{saved}}

## What a layer has for a moment

The term `recomputed_layer` is what the layer builds again until its worst moment, and
`layer_buffers` what it has then beside, less what it kept and has freed.

{{layer_moments}}

## Loading, saving, resuming

What a rank has allocated then; `plan --json` has it beside the peaks. Fit is decided by saving as
by steps: `device_used` is of whichever takes more, and the reason `limit` names the moment. Loading
always takes less. What both have allocated was measured of four ranks, and was within 0.1 %
(`benchmarks/memory`). Resuming does not decide: of layouts as fast as the first, those that can go
on after an interruption come first, and an answer whose first plan may not says so at its top, with
the fastest that can. `device_used_resumed` is the device use after resuming, with the states that
loading makes once more. That was measured in one run only, whose two steps that were done again had
0.36 and 0.37 GiB more reserved, with moments of 0.43, and is not explained: by the sources nothing
holds them then (`tests/stack/test_resuming.py` reads a checkpoint on the CPU). Without optimizer
states in checkpoints (`no_save_optim`) nothing is made twice, and nothing can go on. Nor is it
where they are not read (`no_load_optim`): such a run goes on with new moments, and with the
learning rate of a first step, as ms-swift reads its schedule with them (4.6.0,
swift/megatron/utils/megatron_lm_utils.py:580).

{{checkpoints}}

A node has its own memory, of which `host_memory_bytes` says what loading, training and saving take
(`planner/host_memory.py`): ranks that have the same weights share out the writing of them. A layout
that takes more than a node has does not fit; it is tight where the topology only assumes what a
node has. The numbers rest on two small runs.
"""


def memory_page() -> str:
    """The text of memory.md."""
    return MEMORY.format(
        moments=table(("moment", "when"), [(f"`{m.value}`", MOMENTS[m]) for m in Moment]),
        terms=table(("term", "column", "at", "bytes", "source"), map(_term, TERMS)),
        saved=table(("tensor", "layers", "bytes", "given up by", "source"), map(_saved, SAVED)),
        layer_moments=table(
            ("moment", "layers", "part and pass", "bytes", "freed by then", "source"),
            map(_layer_moment, layer_moments.MOMENTS),
        ),
        checkpoints=table(
            ("moment", "when", "bytes", "source"),
            [
                (f"`{each.id}`", each.when, code(each.formula), each.source)
                for each in checkpoint_memory.CHECKPOINT_MOMENTS
            ],
        ),
    )


def _term(term: memory_terms.MemoryTerm) -> tuple[str, ...]:
    moments = [f"`{moment.value}`" for moment in Moment if moment in term.moments]
    at = "always" if len(moments) == len(Moment) else ", ".join(moments)
    return f"`{term.id}`", term.group, at, code(term.formula), term.source


def _saved(tensor: activations.SavedTensor) -> tuple[str, ...]:
    given_up_by = ", ".join(f"`{module}`" for module in tensor.given_up_by)
    formula = formula_of(tensor.bytes)
    return f"`{tensor.id}`", LAYERS[tensor.kind], code(formula), given_up_by, tensor.source


def _layer_moment(moment: layer_moments.LayerMoment) -> tuple[str, ...]:
    freed = ", ".join(f"`{name}`" for name in moment.freed)
    where = f"{moment.part.replace('_', '-')}, {moment.direction}"
    formula = code(formula_of(moment.bytes))
    return f"`{moment.id}`", LAYERS[moment.kind], where, formula, freed, moment.source
