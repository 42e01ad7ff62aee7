"""Writes README.md beside it: what conversions took, and what was predicted.

make pages
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nvlink_rows import over_sockets

from convert.resources import Term
from convert.ways import RECIPES, conversion_plan
from planner.evaluate import Evaluator
from planner.layout import Layout, PipelineSplit
from planner.model_files import resolve_model
from planner.plan import Plan
from planner.planning import make_plan
from planner.problem import Problem
from planner.recipe import load_recipe
from planner.run import Machines, Run
from planner.settings import Settings
from planner.site import Site
from planner.stack import load_stack
from planner.swift_args import training_args
from planner.topology_files import load_topology
from planner.units import GIB, GIGA
from planner.workload import ASSUMED_ROUTING_IMBALANCE, TunerType, Workload

FOLDER = Path(__file__).parent
CARDS = {"H100": FOLDER / "one_h100.jsonl", "H200": FOLDER / "one_h200.jsonl"}
LATER = FOLDER / "later.jsonl"  # by condense.py
LATER_PAGE = FOLDER / "later_page.md"
RUNS = FOLDER / "runs"  # that the later rows are of
STREAMING = FOLDER / "streaming.json"
LAYERS = 4
BESIDE_TORCH = "cuda_context"  # the term of a GPU that torch does not count

PAGE = """\
# Conversions, measured

Written by `report.py` from `one_h100.jsonl`, `one_h200.jsonl`, `later.jsonl` and `streaming.json`.

## What a conversion takes

A Qwen3-MoE of 4 layers at the widths of Qwen3-30B-A3B (random weights, {weights:.1f} GiB) on one
NVIDIA H100 or H200 with 16 processors and 125 GiB of host memory, ms-swift 4.6.0, mcore-bridge
1.6.5, megatron-core 0.18.1, Transformer Engine 2.12.0, torch 2.11 (2026-11-24).
`plan --output-dir` wrote the run folder; `convert_hf_to_mcore.sh`, four steps of `train.sh` and
`convert_mcore_to_hf.sh` ran unchanged, under `measure.py`. The source lay in the page cache.

| GPU | script | GPU GiB | predicted | | host GiB | predicted | | seconds | predicted |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

GPU: what nvidia-smi shows beyond an idle GPU. Host: anonymous and shared pages of all processes at
their fullest moment, which nobody can take back (on the H100 those of the control group, which
counts a page of forked processes once); pages of mapped files, up to 6.4 GiB more, are the page
cache and can be taken back. Predicted by `moe-convert plan`, whose time assumes 1 GB/s, and for
`train.sh` by `plan`, which predicts the time of a step and not of a start.

On the H100 `moe-convert verify` looked at both results. `mcore` beside its source: sound, the
number of parameters and every number, 6.2 GB in 4.1 s. What training gave back: sound, beside the
source with `--trained`, 12.5 GB in 12.4 s; 593 of 1575 tensors were as before. That is 17 norms,
whose ones four steps at a rate of 1e-5 cannot move in bfloat16, and 3 matrices each of 192 of the
512 experts: the data are letters only, and an expert that no token chose has no gradient (the
counts fit; the names were not kept). The loss went from 12.88 to 12.75 on the H100 and from 12.10
to 11.80 on the H200, whose weights were drawn smaller.

- Before it writes, Megatron-Core copies the weights into pinned memory, which torch gives in powers
  of two: 8.2 GiB for 5.8 GiB of weights, since a matrix of an expert has 3 MiB and takes 4.
- Since megatron-core 0.18 loading a checkpoint needs the experts' gate and up matrices twice on the
  GPU (3.0 GiB here): ms-swift replaces the function that puts them together, but by its old name.
- `swift export --to_mcore` loads the model by transformers onto the GPU first: it needs one GPU
  that holds all of it.
- The host memory of training had been predicted as 19.6 GiB. The sum over processes that it came
  from had counted pages that forked compilers of kernels share once for each: {forked:.1f} GiB for
  {anonymous:.1f}. And the run had started with an empty kernel cache, when 4 GiB more were pinned.

Of LoRA of rank 8, started beside the full training and cut by time while it saved, the GPU was off
by more than 15 %: 14.2 GiB, and 11.7 predicted. torch had reserved 10.2 of them, as predicted; what
is beside that was 4.0 GiB from the second step to the last, in both trainings: 0.9 for the CUDA
context (1.1 in conversions), and eight communicators of NCCL of one rank, which `plan` has counted
since (3.9 GiB: ../memory/README.md).

The same two scripts, unchanged, converted a model of these widths there and back on a CPU by the
real packages (megatron-core 0.16.1): `moe-convert verify` found 1575 of 1575 tensors equal to the
source to the last bit. The files that came back had the sizes of those on the GPU.

These rows are few, and the size of a process, on the host and beside torch on a GPU, and what
transformers needs in passing were read off them and those below: they are no test set.

{later}## Where the time goes

Seconds on the H100, read off a line of samples a second and the logs.

| script | parts |
| --- | --- |
{parts}

Most of it is Python: the command, torchrun and each rank import torch and the stack one after the
other, and so does every process that is started by spawn: the one that packs the data set, which is
started after NCCL (ms-swift 4.6.0, swift/dataset/packing.py:22), and one for saving (megatron-core
0.18.1, filesystem_async.py:53, a queue's manager). Here the stack was installed without bytecode
and Python kept none (`-B`), as images with `PYTHONDONTWRITEBYTECODE` do. On another machine
importing ms-swift's Megatron commands took 27 s of processor time without bytecode and 12 s with:
`python -m compileall -q` of site-packages, once in the image, saves that at every import.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Bytes of a GPU and of the host at their fullest, and seconds where they are predicted."""

    gpu: float
    host: float
    seconds: float | None
    torch: float | None = None  # what torch reserves of `gpu`


def later() -> list[dict[str, Any]]:
    """The scripts that were measured later, of several runs."""
    if not LATER.exists():
        return []
    return [json.loads(line) for line in LATER.read_text("utf-8").splitlines()]


def run_of(row: dict[str, Any]) -> Run:
    """The run whose script a later row is of."""
    content = json.loads((RUNS / f"{row['run']}.json").read_text("utf-8"))
    return Run.from_json(content, origin=row["run"])


def later_prediction(row: dict[str, Any]) -> Prediction:
    """What is predicted for a later row."""
    run = run_of(row)
    if row["kind"] == "training":
        return later_training(run)
    plan = conversion_plan(run)
    way = next(
        way
        for way in (*plan.there, *plan.back)
        if (way.kind.value, way.direction.value) == (row["kind"], row["direction"])
    )
    beside = way.gpu_memory_bytes[BESIDE_TORCH]
    gpu, host = way.gpu_total, way.host_total
    if row["script"].startswith("ADAPTER=1"):
        host -= way.host_memory_bytes["unwritten_file"]
    if row["script"].startswith("TEST_CONVERT_PRECISION=1"):  # as it was run, nothing is saved
        gpu += plan.precision.gpu_bytes
        host += plan.precision.host_bytes - way.host_memory_bytes["staged_weights"]
    if "SMOKE=1" in row["script"]:
        gpu = max(gpu, plan.smoke_gpu_bytes)
    seconds = sum(way.seconds.values())
    return Prediction(gpu=gpu, host=host, seconds=seconds, torch=gpu - beside)


def later_training(run: Run) -> Prediction:
    """What `plan` predicts for the training of a later run."""
    assert run.asked is not None
    machines = run.machines
    cluster = load_topology(run.asked.topology, machines.num_nodes, machines.gpus_per_node)
    problem = Problem(
        model=run.model,
        cluster=cluster,
        workload=run.asked.workload,
        stack=run.stack,
        recipe=run.recipe,
        settings=run.asked.settings,
    )
    plan = make_plan(Evaluator(problem), run.plan.layout)
    fullest = max((stage.memory_bytes for stage in plan.stages), key=lambda m: m["device_used"])
    host = max(plan.host_memory_bytes.values())
    gpu, torch = fullest["device_used"], fullest["peak_reserved"]
    if run.plan.layout.world_size > 1:  # on one card: NCCL took the ranks for two hosts
        gpu = torch + over_sockets(run.plan.layout)
    return Prediction(gpu=gpu, host=host, seconds=None, torch=torch)


def measured() -> list[dict[str, Any]]:
    """The measured scripts, with the GPU that each ran on."""
    return [
        {"gpu": gpu, **json.loads(line)}
        for gpu, path in CARDS.items()
        for line in path.read_text("utf-8").splitlines()
    ]


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


def predicted() -> dict[tuple[str, str], Prediction]:
    """What is predicted for that run, by kind and direction."""
    plan = conversion_plan(run_of_the_measurement())
    ways = {
        (way.kind.value, way.direction.value): Prediction(
            gpu=way.gpu_total, host=way.host_total, seconds=sum(way.seconds.values())
        )
        for way in (*plan.there, *plan.back)
    }
    return ways | {("training", ""): predicted_training()}


def predicted_training() -> Prediction:
    """What `plan` predicts for the training between the conversions."""
    run = run_of_the_measurement()
    problem = Problem(
        model=run.model,
        cluster=load_topology("h100-8x-ib", 1, 1),
        workload=Workload(
            seq_length=2048, global_batch_size=2, routing_imbalance=ASSUMED_ROUTING_IMBALANCE
        ),
        stack=run.stack,
        recipe=replace(run.recipe, no_save_optim=True),
    )
    plan = make_plan(Evaluator(problem), run.plan.layout)
    fullest = max(stage.memory_bytes["device_used"] for stage in plan.stages)
    return Prediction(gpu=fullest, host=max(plan.host_memory_bytes.values()), seconds=None)


def _cells(measured_gib: float | None, predicted_bytes: float | None) -> list[str]:
    """A measured amount, the predicted one, and by how much that is off."""
    if predicted_bytes is None or measured_gib is None:
        return ["" if measured_gib is None else f"{measured_gib:.2f}", "", ""]
    gib = predicted_bytes / GIB
    return [f"{measured_gib:.2f}", f"{gib:.2f}", f"{gib / measured_gib - 1:+.1%}"]


def _row(row: dict[str, Any], expected: Prediction) -> str:
    cells = [
        row["gpu"],
        f"`{row['script']}`",
        *_cells(row["gpu_used_gib"], expected.gpu),
        *_cells(row["host_gib"], expected.host),
        f"{row['seconds']:.0f}",
        "" if expected.seconds is None else f"{expected.seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _later_row(row: dict[str, Any]) -> str:
    expected, run = later_prediction(row), run_of(row)
    tuner = str(run.plan.args["tuner_type"])
    gpus = 1 if row["kind"] == "swift export" else run.plan.layout.world_size
    cells = [
        f"{tuner}, {gpus} GPU" + ("s" if gpus > 1 else ""),
        f"`{row['script']}`",
        *_cells(row["gpu_used_gib"], expected.gpu),
        *_cells(row["gpu_reserved_gib"], expected.torch),
        *_cells(row["host_gib"], expected.host),
        f"{row['seconds']:.0f}",
        "" if expected.seconds is None else f"{expected.seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _parts(row: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {seconds}" for name, seconds in row["parts"].items())
    return f"| `{row['script']}` | {parts} |"


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


def _later_verdict(row: dict[str, Any]) -> str:
    """What was found about a later row, as a line of a list; "" for nothing."""
    found = []
    if row["status"]:
        found.append(f"it ended with {row['status']}")
    if row["verified"]:
        found.append(f"`moe-convert verify`: {row['verified']}")
    if row["mean_difference_of_logits"] is not None:
        apart = row["mean_difference_of_logits"]
        found.append(f"the logits of both sides differ by {apart:.1e} on average, in fp32")
    return f"- {row['name']}, `{row['script']}`: {'; '.join(found)}.\n" if found else ""


def later_page() -> str:
    """The part of the page about the later rows; empty where there are none."""
    rows = later()
    if not rows:
        return ""
    return LATER_PAGE.read_text("utf-8").format(
        most=max(row["host_gib"] for row in rows if row["kind"] == "training"),
        pinned=max(row["host_shared_gib"] for row in rows if row["kind"] == "training"),
        weights=conversion_plan(run_of(rows[0])).weights_bytes / GIB,
        rows="\n".join(map(_later_row, rows)),
        verdicts="".join(map(_later_verdict, rows)),
    )


def page() -> str:
    """The text of README.md."""
    rows, ways = measured(), predicted()
    streaming = json.loads(STREAMING.read_text("utf-8"))
    training = next(row for row in rows if row["kind"] == "training")
    return PAGE.format(
        weights=conversion_plan(run_of_the_measurement()).weights_bytes / GIB,
        rows="\n".join(_row(row, ways[row["kind"], row["direction"]]) for row in rows),
        parts="\n".join(_parts(row) for row in rows if "parts" in row),
        later=later_page(),
        forked=training["processes_anonymous_gib"],
        anonymous=training["host_anonymous_gib"],
        terms="\n".join(_terms()),
        size=streaming["checkpoint_bytes"] / GIGA,
        processors=streaming["processors"],
        streaming="\n".join(map(_streamed, streaming["rows"])),
    )


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(page(), encoding="utf-8")
