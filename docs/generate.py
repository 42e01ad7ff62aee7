"""Writes memory.md, constraints.md, settings.md and stacks.md from the planner's tables.

    python docs/generate.py

A test holds them to the tables.
"""

from collections.abc import Callable, Iterable
from itertools import starmap
from pathlib import Path

from formulas import formula_of

from planner import activations, layer_moments, memory, memory_terms
from planner.activations import SAVED
from planner.communicators import ALONE_BYTES, KERNELS_BYTES, MESSAGE_BYTES, RING_BYTES
from planner.constraints import RULES
from planner.detection import CAPABILITIES, Capability
from planner.flag_history import ChangedDefault, Renamed, new_flags, old_flags
from planner.memory_terms import TERMS
from planner.messages import MESSAGES
from planner.old_flags import REMOVED_SINCE, hint
from planner.releases import Range, releases
from planner.rule import NEVER, Rule, Version
from planner.setting_table import Flag, Kind, Spec, setting_table, word_of
from planner.stack import DEFAULT_STACK, FIELDS, Stack, known_stacks, load_stack
from planner.stage_shape import Moment
from planner.units import GIB, MIB
from planner.verdict import MARGIN_FRACTION
from planner.workload import ASSUMED_ROUTING_IMBALANCE

FOLDER = Path(__file__).parent

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

Written by `docs/generate.py` from `planner/memory_terms.py`, `planner/activations.py` and
`planner/layer_moments.py`. `mc` is megatron/core, `te` Transformer Engine. What the model was
measured against: [benchmarks/memory](../benchmarks/memory/README.md).

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
"""

CONSTRAINTS = """\
# Constraints

Written by `docs/generate.py` from `planner/constraints.py`, `planner/setting_rules.py` and
`planner/messages`. tests/stack holds every rule against the real packages, in both directions.

An *illegal* layout does not run, or does not do what its arguments say. *Forgotten* rules are those
that the stack itself does not check: it loses layers, fails in the first step or ignores the
setting. *Placement* is a choice: `--placement any` allows it. `plan check` still evaluates a layout
that breaks only rules marked *evaluated*. *Engine* rules are those of Transformer Engine and of
GPUs, read in its source: no machine without a GPU can show them.

{rules}
"""


KINDS = {
    Kind.SETTING: "`--set` sets it, and memory, time or rules know what it does",
    Kind.RECIPE: "a recipe says it; `--set` wins",
    Kind.PLANNED: "the planner chooses or derives it",
    Kind.SITE: "said when scripts are written",
    Kind.FREE: "`--set` hands it on unchanged",
    Kind.REFUSED: "`--set` refuses it",
}

SETTINGS = """\
# Settings

Written by `docs/generate.py` from `planner/data/settings.yaml`: every argument of `megatron sft` of
ms-swift 4.6.0, and what becomes of it. tests/stack holds the list against the release.

`plan` and `plan check` take `--set NAME=VALUE`, as often as you like; values of a list stand with
commas between them. What is set goes into run.json and the scripts under its own name. What would
change memory or legality in a way that is not modelled is refused, with the reason; nothing is
ignored.

{kinds}
"""

STACKS = f"""\
# Stacks

Written by `docs/generate.py` from `planner/data`: `stacks`, `releases.yaml`, `new_flags.yaml` and
`old_flags.yaml`. Tests hold the flags against the wheels of every release named here.

A stack is the software that runs a plan. It decides which layouts are legal, what they need, and
what the arguments are called. `--stack` takes a name, {DEFAULT_STACK} when it is not given; a name
with another megatron-core, `{DEFAULT_STACK}+megatron-core-0.19`; or a YAML file. `plan stack detect
--output image.yaml` writes such a file in the image that it runs in, or from the output of `pip
freeze` with `--freeze FILE`. By hand it can be as short as

```yaml
description: our image
based_on: {DEFAULT_STACK}
megatron_core:
  value: 0.18.2
  source: pip freeze of our image
```

## Stacks that come with the planner

{{stacks}}

\\* nobody states this value. Where each comes from: `plan stack list --json`.

## What releases permit

{{permitted}}

A plan whose versions do not go together says so.

## What packages decide

{{capabilities}}

## Flags that came

The arguments of a plan have the names of ms-swift {list(releases().ms_swift)[-1]}. A stack with an
older release gets the older name, or no flag where a run can do without, with a note in the run
folder's README.md; what it cannot say is refused.

{{new}}

## Flags of 3.x under another name

{{renamed}}

## Flags of 3.x that are gone

All went with {REMOVED_SINCE}.

{{removed}}

## Defaults that changed

Of `megatron sft`, from 3.12 to {list(releases().ms_swift)[-1]}.

{{defaults}}
"""


def memory_page() -> str:
    """The text of memory.md."""
    return MEMORY.format(
        moments=_table(("moment", "when"), [(f"`{m.value}`", MOMENTS[m]) for m in Moment]),
        terms=_table(("term", "column", "at", "bytes", "source"), map(_term, TERMS)),
        saved=_table(("tensor", "layers", "bytes", "given up by", "source"), map(_saved, SAVED)),
        layer_moments=_table(
            ("moment", "layers", "part and pass", "bytes", "freed by then", "source"),
            map(_layer_moment, layer_moments.MOMENTS),
        ),
    )


def settings_page() -> str:
    """The text of settings.md."""
    return SETTINGS.format(kinds="\n\n".join(map(_kind, KINDS)))


def _kind(kind: Kind) -> str:
    flags = [flag for flag in setting_table().values() if flag.kind is kind]
    rows = _table(("argument", "values", "why"), map(_setting, flags))
    return f"## {kind.value}: {KINDS[kind]}\n\n{rows}"


def _setting(flag: Flag) -> tuple[str, ...]:
    if flag.spec is None:
        why = "; ".join(filter(None, [flag.why, flag.instead]))
        return _code(flag.name), "", why
    return _code(flag.name), _values(flag.spec), flag.why


def _values(spec: Spec) -> str:
    words = [", ".join(map(word_of, spec.choices)) or spec.type]
    words += ["a list of these"] if spec.choices and spec.type == "list" else []
    bounds = (("at least", spec.least), ("above", spec.above), ("at most", spec.most))
    words += [f"{word} {bound}" for word, bound in bounds if bound is not None]
    words += [f"below {spec.below}"] if spec.below is not None else []
    words += [spec.because] if spec.because else []
    words += [f"not {value}: {why}" for value, why in spec.refused.items()]
    words += [f"needs {spec.needs}"] if spec.needs else []
    return "; ".join(words)


def constraints_page() -> str:
    """The text of constraints.md."""
    heads = ("rule", "kind", "megatron-core", "says", "nearest that works", "source")
    return CONSTRAINTS.format(rules=_table(heads, map(_rule, RULES)))


def stacks_page() -> str:
    """The text of stacks.md."""
    table = releases()
    last = list(table.ms_swift)[-1]
    permitted = [
        (
            f"ms-swift {name}",
            *_permitted(release.megatron_core),
            *_permitted(release.mcore_bridge),
            ", ".join(f"{other} `{permits}`" for other, permits in release.others.items()),
        )
        for name, release in table.ms_swift.items()
    ]
    permitted += [
        (f"mcore-bridge {name}", *_permitted(permits), "", "", "")
        for name, permits in table.mcore_bridge.items()
    ]
    shown = [name for name in FIELDS if name != "allocator_setting"]
    came = [
        (f"`{command}`", release, _flags(flags))
        for command, by_release in new_flags().since.items()
        for release, flags in by_release.items()
    ]
    heads = ("", "megatron-core", "source", "mcore-bridge", "source", "others")
    return STACKS.format(
        stacks=_table(("", *shown), [_stack(load_stack(name), shown) for name in known_stacks()]),
        permitted=_table(heads, permitted),
        capabilities=_table(
            ("package", "there", "missing", "source"), map(_capability, CAPABILITIES)
        ),
        new=_table(("command", "since", "flags"), came),
        renamed=_table(
            ("3.x", last, "since", "value"), starmap(_renamed, old_flags().renamed.items())
        ),
        removed=_table(
            ("flags", "instead"),
            [(_flags(group.flags), group.instead) for group in old_flags().removed],
        ),
        defaults=_table(
            ("flag", "3.12", last, "since"), starmap(_default, old_flags().defaults.items())
        ),
    )


def _stack(stack: Stack, shown: list[str]) -> tuple[str, ...]:
    cells = [f"`{stack.name}`"]
    for name in shown:
        value = getattr(stack, name)
        text = ", ".join(value) if isinstance(value, tuple) else str(value).lower() or "-"
        cells.append(text + (r" \*" if name in stack.assumed else ""))
    return tuple(cells)


def _permitted(permits: Range | None) -> tuple[str, str]:
    return ("-", "") if permits is None else (f"`{permits}`", permits.source)


def _capability(each: Capability) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in each.distributions)
    return names, each.there, each.missing, each.source


def _renamed(old: str, renamed: Renamed) -> tuple[str, ...]:
    found = hint(old)
    assert found is not None
    value = "the opposite" if renamed.inverted else renamed.converted
    return f"`{old}`", f"`{renamed.now}`", found.since, value


def _default(flag: str, changed: ChangedDefault) -> tuple[str, ...]:
    return f"`{flag}`", f"`{changed.before}`", f"`{changed.now}`", changed.since


def _flags(flags: Iterable[str]) -> str:
    return ", ".join(f"`{flag}`" for flag in sorted(flags))


def _term(term: memory_terms.MemoryTerm) -> tuple[str, ...]:
    moments = [f"`{moment.value}`" for moment in Moment if moment in term.moments]
    at = "always" if len(moments) == len(Moment) else ", ".join(moments)
    return f"`{term.id}`", term.group, at, _code(term.formula), term.source


def _saved(tensor: activations.SavedTensor) -> tuple[str, ...]:
    given_up_by = ", ".join(f"`{module}`" for module in tensor.given_up_by)
    formula = formula_of(tensor.bytes)
    return f"`{tensor.id}`", LAYERS[tensor.kind], _code(formula), given_up_by, tensor.source


def _layer_moment(moment: layer_moments.LayerMoment) -> tuple[str, ...]:
    freed = ", ".join(f"`{name}`" for name in moment.freed)
    where = f"{moment.part.replace('_', '-')}, {moment.direction}"
    formula = _code(formula_of(moment.bytes))
    return f"`{moment.id}`", LAYERS[moment.kind], where, formula, freed, moment.source


def _rule(rule: Rule) -> tuple[str, ...]:
    message = MESSAGES[f"rule.{rule.id}"]
    kind = rule.kind + (", forgotten" if rule.forgotten else "")
    kind += ", evaluated" if rule.evaluable else ""
    return f"`{rule.id}`", kind, _versions(rule), message.text, message.fix, rule.source


def _versions(rule: Rule) -> str:
    def name(version: Version) -> str:
        return ".".join(map(str, version[:2]))

    since = f"from {name(rule.since)}" if any(rule.since) else ""
    until = f"before {name(rule.until)}" if rule.until != NEVER else ""
    return " ".join(filter(None, [since, until])) or "all"


def _code(text: str) -> str:
    return f"`{text}`"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(_line(cells) for cells in lines)


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


PAGES: dict[str, Callable[[], str]] = {
    "memory.md": memory_page,
    "constraints.md": constraints_page,
    "settings.md": settings_page,
    "stacks.md": stacks_page,
}


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
