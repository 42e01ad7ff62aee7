"""What to change after memory ran out: the first rung that leaves as much free as was missing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from measure.calibrate.out_of_memory import OutOfMemory, When
from measure.calibrate.prediction import batch_view
from planner.command import quoted
from planner.constraints import violations
from planner.dialects import words
from planner.errors import UsageError
from planner.evaluate import Evaluator
from planner.layout import Layout
from planner.problem import Problem, sizes_of
from planner.run import Run
from planner.search import recompute_ladder, search
from planner.setting_conflicts import check_settings
from planner.settings import read_settings, with_settings
from planner.swift_args import ArgValue, pipeline_args, training_args
from planner.workload import TunerType

OFFLOAD = "optimizer_cpu_offload=true"
# At these moments there are no activations whose recomputation would help.
_WITHOUT_ACTIVATIONS = (When.BUILDING, When.LOADING, When.RESUMING, When.SAVING, When.OPTIMIZER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A change of a run that needs less memory."""

    kind: str  # recompute | micro_batch_size | offload | layout
    layout: Layout
    device_bytes: float  # predicted, of the fullest stage, with what was missing before
    step_seconds: float
    settings: tuple[str, ...] = ()  # NAME=VALUE that are new


def stage_of(rank: int, layout: Layout) -> int:
    """The pipeline stage of a rank: Megatron's order has PP outermost."""
    return min(layout.pp - 1, rank * layout.pp // layout.world_size)


def missing_bytes(error: OutOfMemory, predicted: float, others: float | None) -> float:
    """How much more a rank needed than was predicted of the moment, at the least, besides what
    others held; 0: no more."""
    if error.needed_bytes is None:
        return 0.0
    return max(0.0, error.needed_bytes - (others or 0.0) - predicted)


def next_rung(problem: Problem, layout: Layout, error: OutOfMemory, missing: float) -> Rung | None:
    """The first rung that fits with what was missing; None: only more GPUs or shorter packs."""
    usable = problem.cluster.gpu.memory_usable_bytes
    now = batch_view(problem, layout).device_used(layout.recompute) + missing
    rungs = _rungs(problem, layout, missing, error.when not in _WITHOUT_ACTIVATIONS)
    return next((rung for rung in rungs if rung.device_bytes <= min(usable, now - 1)), None)


def _rungs(
    problem: Problem, layout: Layout, missing: float, with_activations: bool
) -> Iterator[Rung]:
    """Cheapest changes first; within a kind the fastest first."""
    size = layout.micro_batch_size if with_activations else 0
    while size:
        kind = "recompute" if size == layout.micro_batch_size else "micro_batch_size"
        same = _recomputed(problem, replace(layout, micro_batch_size=size), kind, missing)
        yield from sorted(same, key=lambda rung: rung.step_seconds)
        size //= 2
    yield from _elsewhere(problem, missing)
    yield from _offloaded(problem, layout, missing)


def _recomputed(problem: Problem, layout: Layout, kind: str, missing: float) -> Iterator[Rung]:
    """Every choice of recomputation of a layout that breaks no rule."""
    free = _free_to_recompute(problem)
    layers = problem.model.num_layers // (layout.pp * layout.vpp)
    for recompute in recompute_ladder(free, layers):
        changed = replace(layout, recompute=recompute)
        if not violations(free, sizes_of(changed)):
            yield _rung(free, changed, kind, missing)


def _elsewhere(problem: Problem, missing: float) -> Iterator[Rung]:
    """The fastest layouts of GPUs that are smaller by what was missing."""
    gpu = problem.cluster.gpu
    smaller = replace(gpu, memory_usable_bytes=max(1, int(gpu.memory_usable_bytes - missing)))
    free = _free_to_recompute(problem)
    shrunk = replace(free, cluster=replace(problem.cluster, gpu=smaller))
    for candidate in search(Evaluator(shrunk)).ranked[:1]:
        yield _rung(free, candidate.layout(free), "layout", missing)


def _offloaded(problem: Problem, layout: Layout, missing: float) -> Iterator[Rung]:
    """The same layout with the optimizer's states on the host, where the stack can."""
    if OFFLOAD.partition("=")[0] in problem.settings.given:
        return
    settings = read_settings([*_given(problem), OFFLOAD])
    offloaded = replace(problem, settings=settings, recipe=with_settings(problem.recipe, settings))
    try:
        check_settings(offloaded)
    except UsageError:
        return
    yield replace(_rung(offloaded, layout, "offload", missing), settings=(OFFLOAD,))


def _rung(problem: Problem, layout: Layout, kind: str, missing: float) -> Rung:
    view = batch_view(problem, layout)
    return Rung(
        kind=kind,
        layout=layout,
        device_bytes=view.device_used(layout.recompute) + missing,
        step_seconds=view.step_seconds(layout.recompute),
    )


def _free_to_recompute(problem: Problem) -> Problem:
    return replace(problem, workload=replace(problem.workload, recompute="auto"))


def _given(problem: Problem) -> list[str]:
    """What was set, as --set takes it."""
    return [f"{name}={' '.join(words(value))}" for name, value in problem.settings.given.items()]


def changed_arguments(run: Run, problem: Problem, rung: Rung) -> dict[str, ArgValue | None]:
    """The arguments of `megatron sft` that a rung changes, under ms-swift's newest names; None:
    to be left out."""
    settings = read_settings([*_given(problem), *rung.settings])
    recipe = with_settings(problem.recipe, settings)
    new = training_args(
        problem.model, rung.layout, problem.workload, problem.stack, recipe, settings
    )
    old = run.plan.args
    names = [*new, *(name for name in old if name not in new)]
    return {name: new.get(name) for name in names if new.get(name) != old.get(name)}


def _split(problem: Problem, layout: Layout) -> list[str]:
    """The split of a layout that is not even, as --set takes it."""
    if problem.settings.names_split:
        return []
    arguments = pipeline_args(layout.split, problem.workload.mtp_num_layers)
    return [f"{name}={value}" for name, value in arguments.items() if not name.endswith("_size")]


def check_command(problem: Problem, rung: Rung, topology: str, model: str) -> str | None:
    """The `plan check` of a rung; None: it has no flags for such a choice of recomputation."""
    layout, workload, recompute = rung.layout, problem.workload, rung.layout.recompute
    if recompute.method == "block":
        return None
    given = {
        "gpus": problem.cluster.num_gpus,
        "nodes": problem.cluster.num_nodes,
        "model": model,
        "topology": topology,
        "stack": problem.stack.name,
        **{name: getattr(layout, name) for name in ("tp", "pp", "vpp", "cp", "ep", "etp")},
        "micro-batch-size": layout.micro_batch_size,
        "global-batch-size": workload.global_batch_size,
        "seq-length": workload.seq_length,
        "tuner-type": workload.tuner_type.value,
        "lora-rank": workload.lora_rank if workload.tuner_type is TunerType.LORA else None,
        "routing-imbalance": workload.routing_imbalance if problem.model.is_moe else None,
        "mean-document-tokens": workload.mean_document_tokens,
        "mtp-num-layers": workload.mtp_num_layers or None,
        "recompute": recompute.granularity,
        "recompute-modules": ",".join(recompute.modules) or None,
    }
    flags = [
        word
        for flag, value in given.items()
        if value is not None
        for word in (f"--{flag}", f"{value:g}" if isinstance(value, float) else str(value))
    ]
    given_settings = (*_given(problem), *_split(problem, layout), *rung.settings)
    flags += [word for text in given_settings for word in ("--set", text)]
    return " ".join(quoted(word) for word in ["plan", "check", *flags])
