"""Problems and legal layouts of the bundled models, for tests of the planner's core."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from planner.batch_view import BatchView
from planner.evaluate import Evaluator
from planner.layout import NO_RECOMPUTE, Layout, PipelineSplit, Recompute
from planner.model_files import known_models, resolve_model
from planner.model_spec import ModelSpec
from planner.problem import Problem
from planner.recipe import load_recipe
from planner.settings import read_settings, with_settings
from planner.stack import load_stack
from planner.topology_files import load_topology
from planner.workload import Placement, TunerType, Workload

GIB = 2**30
MODELS = [
    model.name for model in known_models() if resolve_model(model.name).unplanned_attention is None
]
FULL = Recompute(granularity="full", method="uniform", num_layers=1)


def divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def shortened(model: ModelSpec, num_layers: int) -> ModelSpec:
    """The same widths with fewer layers, the first ones."""
    patterns = ("moe_layers", "linear_layers", "window_layers")
    kept = {pattern: getattr(model, pattern)[:num_layers] for pattern in patterns}
    return replace(model, num_layers=num_layers, **kept)


def problem(
    model: str | ModelSpec = "Qwen3-30B-A3B",
    *,
    gpus: int = 16,
    topology: str = "h100-8x-ib",
    stack: str = "ms-swift-4.6",
    settings: tuple[str, ...] = (),
    **workload: Any,
) -> Problem:
    """A problem on hosts of 8 GPUs, or on a part of one; `settings` are those of --set."""
    per_node = min(gpus, 8)
    given = read_settings(settings)
    wanted = Workload(**{"target_modules": given.target_modules, **workload})
    return Problem(
        model=resolve_model(model) if isinstance(model, str) else model,
        cluster=load_topology(topology, gpus // per_node, per_node),
        workload=wanted,
        stack=load_stack(stack),
        recipe=with_settings(load_recipe(wanted.tuner_type), given),
        settings=given,
    )


def small(
    model: str,
    layers: int,
    *,
    gpus: int = 8,
    nodes: int = 1,
    memory_gib: float = 79,
    stack: str = "ms-swift-4.6",
    **workload: Any,
) -> Problem:
    """A short model on few GPUs with so much memory."""
    spec = shortened(resolve_model(model), layers)
    stated = problem(spec, gpus=gpus, stack=stack, **workload)
    cluster = load_topology("h100-8x-ib", nodes, gpus // nodes)
    gpu = replace(cluster.gpu, memory_usable_bytes=int(memory_gib * GIB))
    return replace(stated, cluster=replace(cluster, gpu=gpu))


@dataclass(frozen=True, slots=True)
class Case:
    """A legal layout of a problem."""

    problem: Problem
    layout: Layout

    @property
    def batch(self) -> BatchView:
        """The view that evaluates it, with nothing kept from other cases."""
        return Evaluator(self.problem).batch(self.layout)

    def with_workload(self, **changes: Any) -> "Case":
        """The same layout of another workload."""
        workload = replace(self.problem.workload, **changes)
        return Case(replace(self.problem, workload=workload), self.layout)


@st.composite
def splits(draw: st.DrawFn, num_layers: int, pp: int, vpp: int) -> PipelineSplit:
    """Any split with at least one layer in every chunk."""
    chunks = pp * vpp
    cuts: set[int] = set()
    if chunks > 1:
        inner = st.integers(1, num_layers - 1)
        cuts = draw(st.sets(inner, min_size=chunks - 1, max_size=chunks - 1))
    bounds = list(pairwise([0, *sorted(cuts), num_layers]))
    return PipelineSplit(tuple(tuple(bounds[stage::pp]) for stage in range(pp)))


def recomputes(model: ModelSpec, split: PipelineSplit) -> st.SearchStrategy[Recompute]:
    """Any legal choice of recomputation, wise or not."""
    longest = max(end - first for stage in split.chunks for first, end in stage)
    modules = ["core_attn", "mlp", *(["moe", "moe_act", "shared_experts"] if model.is_moe else [])]
    if "DeepSeek" in model.name:
        modules.append("mla_up_proj")
    selective = st.sets(st.sampled_from(modules), min_size=1).map(
        lambda chosen: Recompute(granularity="selective", modules=tuple(sorted(chosen)))
    )
    full = st.builds(
        Recompute,
        granularity=st.just("full"),
        method=st.sampled_from(["uniform", "block"]),
        num_layers=st.integers(1, longest),
    )
    return st.just(NO_RECOMPUTE) | st.just(FULL) | selective | full


@st.composite
def expert_sizes(
    draw: st.DrawFn, model: ModelSpec, tuner: TunerType, stage: int, tp: int
) -> tuple[int, int]:
    """Legal EP and ETP beside a TP on the ranks of a stage."""
    if model.moe is None:
        return 1, 1
    ffn = model.moe.ffn_hidden_size if tuner is TunerType.FULL else 1
    undivided = ffn % tp == 0  # ETP like TP, without EP
    eps = [n for n in divisors(stage) if model.moe.num_experts % n == 0 and (undivided or n > 1)]
    ep = draw(st.sampled_from(eps))
    if ep == 1:
        return ep, tp
    return ep, draw(st.sampled_from([n for n in divisors(stage // ep) if ffn % n == 0]))


@st.composite
def cases(draw: st.DrawFn, models: tuple[str, ...] = tuple(MODELS)) -> Case:
    """A legal layout of a bundled model: any grid, split, schedule, recomputation and workload."""
    model = resolve_model(draw(st.sampled_from(models)))
    world_size = draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
    pp = draw(st.sampled_from(divisors(world_size)))
    if pp > model.num_layers:
        pp = 1
    stage = world_size // pp
    tuner = draw(st.sampled_from(TunerType))
    heads = model.attention.num_heads
    tp = draw(st.sampled_from([n for n in (1, 2, 4, 8) if stage % n == 0 and heads % n == 0]))
    cp = draw(st.sampled_from(divisors(stage // tp)))
    ep, etp = draw(expert_sizes(model, tuner, stage, tp))
    vpp = 1
    if pp > 1:
        vpp = draw(st.sampled_from([n for n in (1, 2, 3) if n * pp <= model.num_layers]))
    micro_batch_size = draw(st.sampled_from([1, 2, 4]))
    dp = stage // (tp * cp)
    rounds = draw(st.integers(1, 6)) * (pp if vpp > 1 else 1)
    global_batch_size = micro_batch_size * dp * rounds
    split = draw(splits(model.num_layers, pp, vpp))
    workload = Workload(
        seq_length=draw(st.sampled_from([1024, 4096, 8192])),
        global_batch_size=global_batch_size,
        tuner_type=tuner,
        lora_rank=draw(st.sampled_from([8, 64])),
        routing_imbalance=draw(st.sampled_from([1.0, 1.3, 4.0])),
        mean_document_tokens=draw(st.sampled_from([None, 512])),
        mtp_num_layers=draw(st.integers(0, model.mtp_num_layers)),
        placement=Placement.ANY,
    )
    layout = Layout(
        world_size=world_size,
        tp=tp,
        pp=pp,
        vpp=vpp,
        ep=ep,
        etp=etp,
        cp=cp,
        micro_batch_size=micro_batch_size,
        global_batch_size=global_batch_size,
        recompute=draw(recomputes(model, split)),
        split=split,
    )
    per_node = min(world_size, 8)
    return Case(
        Problem(
            model=model,
            cluster=load_topology(
                draw(st.sampled_from(["h100-8x-ib", "h20-8x-erdma"])),
                world_size // per_node,
                per_node,
            ),
            workload=workload,
            stack=load_stack(draw(st.sampled_from(["ms-swift-4.6", "gpu-kit-2026-11"]))),
            recipe=load_recipe(workload.tuner_type),
        ),
        layout,
    )
