"""Writes README.md beside it: what conversions took, and what was predicted.

python benchmarks/convert/report.py
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from convert.resources import Term
from convert.ways import RECIPES, Way, conversion_plan
from planner.layout import Layout, PipelineSplit
from planner.model_files import resolve_model
from planner.plan import Plan
from planner.recipe import load_recipe
from planner.run import Machines, Run
from planner.settings import Settings
from planner.site import Site
from planner.stack import load_stack
from planner.swift_args import training_args
from planner.units import GIB, GIGA
from planner.workload import TunerType, Workload

FOLDER = Path(__file__).parent
ROWS = FOLDER / "one_h200.jsonl"
STREAMING = FOLDER / "streaming.json"
LAYERS = 4

PAGE = """\
# Conversions, measured

Written by `report.py` from `one_h200.jsonl` and `streaming.json`.

## What a conversion takes

A Qwen3-MoE of 4 layers at the widths of Qwen3-30B-A3B (random weights, {weights:.1f} GiB) on one
NVIDIA H200 with 16 processors and 125 GiB of host memory, ms-swift 4.6.0, mcore-bridge 1.6.5,
megatron-core 0.18.1, Transformer Engine 2.12.0, torch 2.11 (2026-11-24). `plan --output-dir` wrote
the run folder; `convert_hf_to_mcore.sh`, four steps of `train.sh` and `convert_mcore_to_hf.sh` ran
unchanged, under `measure.py`. The model was converted, trained (loss 12.10 to 11.80) and converted
back; the source lay in the page cache, the disk wrote 1.5 GB/s.

| conversion | GPU GiB | predicted | | host GiB | predicted | | seconds | predicted |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

GPU: what nvidia-smi shows beyond an idle GPU. Host: anonymous and shared pages of all processes at
their fullest moment, which nobody can take back; pages of mapped files, up to 6.4 GiB more, are the
page cache and can be taken back. Predicted by `moe-convert plan`, whose time assumes 1 GB/s.

- Before it writes, Megatron-Core copies the weights into pinned memory, which torch gives in powers
  of two: 8.2 GiB for 5.8 GiB of weights, since a matrix of an expert has 3 MiB and takes 4.
- Since megatron-core 0.18 loading a checkpoint needs the experts' gate and up matrices twice on the
  GPU (3.0 GiB here): ms-swift replaces the function that puts them together, but by its old name.
- `swift export --to_mcore` loads the model by transformers onto the GPU first: it needs one GPU
  that holds all of it.

The same two scripts, unchanged, converted a model of these widths there and back on a CPU by the
real packages (megatron-core 0.16.1): `moe-convert verify` found 1575 of 1575 tensors equal to the
source to the last bit. The files that came back had the sizes of those on the GPU.

These rows are few, and the size of a process and what transformers needs in passing were read off
them: they are no test set. Not measured on a GPU: several ranks, LoRA, the comparison of logits,
`swift export --to_hf`, and the check of what training gave back (tests do all of these but the
comparison of logits with small models on CPUs, where memory tells nothing). The harness keeps a
line of samples a second; those of this measurement were lost, and the rows are what it printed.

## What the predictions are made of

| term | of | is | source |
| --- | --- | --- | --- |
{terms}

## How fast checkpoints are checked

`moe-convert verify` of {size:.1f} GB by `streaming.py`, on {processors} processors, no file in the
page cache, beside reading the same files and doing nothing.

| what is checked | read | takes | rate | plain reading | peak memory |
| --- | --- | --- | --- | --- | --- |
{streaming}
"""


def measured() -> list[dict[str, Any]]:
    """The measured conversions."""
    return [json.loads(line) for line in ROWS.read_text("utf-8").splitlines()]


def run_of_the_measurement() -> Run:
    """The run whose scripts were measured: one GPU, four layers."""
    whole = resolve_model("Qwen3-30B-A3B")
    model = replace(whole, num_layers=LAYERS, moe_layers=whole.moe_layers[:LAYERS])
    split = PipelineSplit((((0, LAYERS),),))
    layout = Layout(world_size=1, global_batch_size=2, split=split)
    workload = Workload(seq_length=2048, global_batch_size=2)
    recipe, stack = load_recipe(TunerType.FULL), load_stack("gpu-kit-2026-11")
    return Run(
        plan=Plan(
            layout=layout,
            args=training_args(model, layout, workload, stack, recipe, Settings()),
        ),
        recipe=recipe,
        site=Site(model_path="elsewhere", dataset=("elsewhere",)),
        model=model,
        machines=Machines(
            num_nodes=1, gpus_per_node=1, gpu_name="H200", gpu_memory_bytes=139 * GIB
        ),
        stack=stack,
    )


def predicted() -> dict[tuple[str, str], Way]:
    """What is predicted for that run, by kind and direction."""
    plan = conversion_plan(run_of_the_measurement())
    return {(way.kind.value, way.direction.value): way for way in (*plan.there, *plan.back)}


def _off(predicted_bytes: int, measured_gib: float) -> str:
    return f"{predicted_bytes / GIB / measured_gib - 1:+.1%}"


def _row(row: dict[str, Any], way: Way) -> str:
    cells = [
        f"`{row['script']}`",
        f"{row['gpu_used_gib']:.2f}",
        f"{way.gpu_total / GIB:.2f}",
        _off(way.gpu_total, row["gpu_used_gib"]),
        f"{row['host_gib']:.2f}",
        f"{way.host_total / GIB:.2f}",
        _off(way.host_total, row["host_gib"]),
        f"{row['seconds']:.0f}",
        f"{sum(way.seconds.values()):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _streamed(row: dict[str, Any]) -> str:
    cells = [
        row["name"],
        f"{row['bytes_read'] / GIGA:.1f} GB",
        f"{row['seconds']:.1f} s",
        f"{row['bytes_per_second'] / GIGA:.2f} GB/s",
        f"{row['plain_bytes_per_second'] / GIGA:.2f} GB/s",
        f"{row['peak_resident_bytes'] / 2**20:.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


def _terms() -> list[str]:
    """A line a term, with the ways that it belongs to."""
    used: dict[Term, list[str]] = {}
    for (kind, direction), recipe in RECIPES.items():
        for term in (*recipe.gpu, *recipe.host, *recipe.seconds):
            used.setdefault(term, []).append(f"{kind} {direction}")
    return [
        f"| `{term.id}` | {', '.join(ways)} | {term.formula} | {term.source} |"
        for term, ways in used.items()
    ]


def page() -> str:
    """The text of README.md."""
    ways, streaming = predicted(), json.loads(STREAMING.read_text("utf-8"))
    return PAGE.format(
        weights=conversion_plan(run_of_the_measurement()).weights_bytes / GIB,
        rows="\n".join(_row(row, ways[row["kind"], row["direction"]]) for row in measured()),
        terms="\n".join(_terms()),
        size=streaming["checkpoint_bytes"] / GIGA,
        processors=streaming["processors"],
        streaming="\n".join(map(_streamed, streaming["rows"])),
    )


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(page(), encoding="utf-8")
