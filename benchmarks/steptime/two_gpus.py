"""Lists the layouts of two cut models on two GPUs whose steps are measured, before any is.

    python benchmarks/steptime/two_gpus.py

writes two_gpus.jsonl beside this file: every grid, pipeline and micro-batch of `MODELS` that breaks
no rule of the planner and fits, with nothing recomputed or everything. All steps have
the same number of tokens. `two_gpus_run.py` measures them, `two_gpus_report.py` compares.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from design_models import FAMILIES, config_of

from measure.verify.row import Row
from planner.constraints import violations
from planner.dialects import argv
from planner.evaluate import Evaluator
from planner.layout import FULL_RECOMPUTE, NO_RECOMPUTE, Layout
from planner.model_config import model_spec_from_config
from planner.plan import layout_from_json, layout_to_json
from planner.problem import Problem, Sizes, as_layout
from planner.recipe import load_recipe
from planner.stack import load_stack
from planner.swift_args import training_args
from planner.topology_files import load_topology
from planner.verdict import Verdict, verdict
from planner.workload import TunerType, Workload

PAGE = Path(__file__).with_name("two_gpus.jsonl")
TOPOLOGY, STACK, GPUS = "h100-8x-ib", "gpu-kit-2026-11", 2
SEQ_LENGTH, GLOBAL_BATCH_SIZE = 4096, 4
STEPS = 8  # of a run: two are cold
RECOMPUTES = (NO_RECOMPUTE, FULL_RECOMPUTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A model with the widths of a real one and few layers; `family` is ms-swift's."""

    name: str
    family: str
    num_layers: int
    micro_batch_sizes: tuple[int, ...]

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return config_of(self.name, self.num_layers)


# Grouped-query attention with 128 experts; multi-latent attention with shared experts and a first
# layer that is dense.
MODELS = {
    "qwen": Cut(name="Qwen3-30B-A3B", family="qwen3_moe", num_layers=6, micro_batch_sizes=(1, 2)),
    "moonlight": Cut(
        name="Moonlight-16B-A3B", family="deepseek_v3", num_layers=6, micro_batch_sizes=(1,)
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A layout of a model, and the row that runs it."""

    model: str  # of MODELS
    layout: Layout
    row: Row

    def to_json(self) -> str:
        """One line; `from_json` reads it back."""
        content = {
            "model": self.model,
            "layout": layout_to_json(self.layout),
            "row": asdict(self.row),
        }
        return json.dumps(content)

    @classmethod
    def from_json(cls, line: str) -> "Entry":
        """The entry that `to_json` gave."""
        content = json.loads(line)
        return cls(
            model=content["model"],
            layout=layout_from_json(content["layout"]),
            row=Row(**content["row"]),
        )


def problem_of(model: str, topology: str = TOPOLOGY) -> Problem:
    """What is planned: full fine-tuning of a cut model on two GPUs of a host."""
    cut = MODELS[model]
    return Problem(
        model=model_spec_from_config(cut.config, name=cut.name, origin=cut.name),
        cluster=load_topology(topology, 1, GPUS),
        workload=Workload(seq_length=SEQ_LENGTH, global_batch_size=GLOBAL_BATCH_SIZE),
        stack=load_stack(STACK),
        recipe=load_recipe(TunerType.FULL),
    )


def entries() -> Iterator[Entry]:
    """The list, by the planner of today."""
    for model, cut in MODELS.items():
        problem = problem_of(model)
        evaluator = Evaluator(problem)
        usable = problem.cluster.gpu.memory_usable_bytes
        for sizes in _every_size(evaluator, cut):
            if not violations(problem, sizes):
                layout = as_layout(problem, sizes)
                used = evaluator.batch(layout).device_used(layout.recompute)
                if verdict(used, usable) is Verdict.FITS:
                    yield _entry(problem, model, layout)


def _every_size(evaluator: Evaluator, cut: Cut) -> Iterator[Sizes]:
    """All sizes up to two, and chunks that give each stage as many layers."""
    choices = product(cut.micro_batch_sizes, RECOMPUTES, *[range(1, GPUS + 1)] * 5)
    for micro_batch_size, recompute, tp, cp, pp, ep, etp in choices:
        for vpp in range(1, cut.num_layers // pp + 1) if pp > 1 else (1,):
            split = evaluator.split(pp, vpp)
            if split is not None and (pp == 1 or cut.num_layers % (pp * vpp) == 0):
                yield Sizes(
                    world_size=GPUS,
                    tp=tp,
                    cp=cp,
                    pp=pp,
                    ep=ep,
                    etp=etp,
                    vpp=vpp,
                    micro_batch_size=micro_batch_size,
                    recompute=recompute,
                    split=split,
                )


def _entry(problem: Problem, model: str, layout: Layout) -> Entry:
    cut = MODELS[model]
    _, model_type, template, _ = FAMILIES[cut.family]
    names = ("tp", "pp", "vpp", "cp", "ep", "etp")
    sizes = [f"{name}{getattr(layout, name)}" for name in names if getattr(layout, name) > 1]
    tag = "-".join([*sizes, f"mbs{layout.micro_batch_size}", str(layout.recompute)])
    args = training_args(problem.model, layout, problem.workload, problem.stack, problem.recipe)
    row = Row(
        id=f"{model}-{tag}",
        family=cut.family,
        set_aside=False,
        world_size=GPUS,
        rank=0,
        stage="",
        config=cut.config,
        model_type=model_type,
        template=template,
        argv=argv(args),
        steps=STEPS,
    )
    return Entry(model=model, layout=layout, row=row)


def listed() -> list[Entry]:
    """The list as it was committed."""
    return [Entry.from_json(line) for line in PAGE.read_text(encoding="utf-8").splitlines()]


def predicted_seconds(entry: Entry, topology: str) -> float:
    """What the planner of today says of an entry's step, at even routing."""
    view = Evaluator(problem_of(entry.model, topology)).batch(entry.layout)
    return view.step_time(entry.layout.recompute).total


def main() -> None:
    """Write two_gpus.jsonl."""
    lines = [entry.to_json() for entry in entries()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
