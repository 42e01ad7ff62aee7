"""Layouts of short models that may be illegal, in the planner's words and in the stack's."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from planner.constraints import violations
from planner.layout import Layout, PipelineSplit, Recompute
from planner.model_config import model_spec_from_config
from planner.named_split import named_split
from planner.pipeline_layout import layout_chunks
from planner.problem import Problem, Sizes
from planner.recipe import load_recipe
from planner.rule import Rule
from planner.settings import AS_PLANNED, Settings, read_settings, with_settings
from planner.stack import load_stack
from planner.swift_args import training_args
from planner.topology_files import load_topology
from planner.workload import Placement, TunerType, Workload
from stack import models
from stack.layouts import even, split

RECOMPUTE = [
    Recompute(),
    Recompute(granularity="full", method="uniform", num_layers=1),
    Recompute(granularity="full", method="block", num_layers=2),
    Recompute(granularity="full", method="uniform"),
    Recompute(granularity="selective", modules=("core_attn",)),
    Recompute(granularity="selective", modules=("layernorm", "moe_act")),
    Recompute(granularity="selective", modules=("mla_up_proj", "moe")),
    Recompute(granularity="selective", modules=("mlp", "shared_experts")),
    Recompute(granularity="selective", modules=("attention",)),
]
SIZES = ("tp", "cp", "pp", "ep", "etp", "vpp", "micro_batch_size")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout of a short model that may be illegal."""

    model: str
    workload: Workload
    sizes: Sizes
    settings: Settings = AS_PLANNED

    def problem(self, megatron_core: str) -> Problem:
        """The search that would meet it."""
        config = models.short_config(self.model)
        return Problem(
            model=model_spec_from_config(config, name=self.model, origin=self.model),
            cluster=load_topology("h100-8x-ib", 1),
            workload=self.workload,
            stack=replace(load_stack(), megatron_core=megatron_core),
            recipe=with_settings(load_recipe(self.workload.tuner_type), self.settings),
            settings=self.settings,
        )

    def broken(self, megatron_core: str) -> list[Rule]:
        """The rules that the planner says it breaks."""
        found = violations(self.problem(megatron_core), self.sizes)
        return [violation.rule for violation in found if violation.rule.kind == "illegal"]

    def flags(self, megatron_core: str) -> dict[str, Any]:
        """What would be emitted, if illegal layouts were."""
        problem, sizes = self.problem(megatron_core), self.sizes
        layout = Layout(
            world_size=sizes.world_size,
            split=sizes.split or split(even(problem.model.num_layers, 1)),
            global_batch_size=self.workload.global_batch_size,
            recompute=sizes.recompute,
            dispatcher=sizes.dispatcher,
            **{name: getattr(sizes, name) for name in SIZES},
        )
        flags: dict[str, Any] = {
            "expert_model_parallel_size": sizes.ep,
            "expert_tensor_parallel_size": sizes.etp,
            **training_args(
                problem.model,
                layout,
                self.workload,
                problem.stack,
                problem.recipe,
                problem.settings,
            ),
        }
        if sizes.split is None and not self.settings.names_split:
            flags["pipeline_model_parallel_size"] = sizes.pp
            flags["virtual_pipeline_model_parallel_size"] = sizes.vpp
        return flags


def candidate(
    model: str,
    world_size: int,
    sizes: list[list[int]] | None = None,
    *,
    recompute: Recompute = RECOMPUTE[0],
    dispatcher: str = "alltoall",
    parallel: dict[str, int] | None = None,
    settings: tuple[str, ...] = (),
    **workload: Any,
) -> Candidate:
    """Return a candidate with `sizes[stage][virtual_stage]` layers; None: one stage with all."""
    layers = sizes or even(models.short_config(model)["num_hidden_layers"], 1)
    given = read_settings(settings)
    grid = {"pp": len(layers), "vpp": len(layers[0]), **(parallel or {})}
    return Candidate(
        model,
        Workload(
            **{
                "global_batch_size": 24 * world_size,
                "placement": Placement.ANY,
                "target_modules": given.target_modules,
                **workload,
            }
        ),
        Sizes(
            world_size=world_size,
            split=split(layers),
            recompute=recompute,
            dispatcher=dispatcher,
            **grid,
        ),
        given,
    )


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


@st.composite
def _splits(draw: st.DrawFn, num_layers: int, pp: int, vpp: int) -> PipelineSplit | None:
    """Any split with a layer in every chunk; None when there are too few layers."""
    chunks = pp * vpp
    if chunks > num_layers:
        return None
    cuts = st.sets(st.integers(1, num_layers - 1), min_size=chunks - 1, max_size=chunks - 1)
    bounds = [0, *sorted(draw(cuts) if chunks > 1 else []), num_layers]
    sizes = [end - first for first, end in pairwise(bounds)]
    return split([sizes[stage::pp] for stage in range(pp)])


def _parallel_sizes(draw: st.DrawFn, world_size: int, is_moe: bool) -> dict[str, int]:
    """Sizes that fit a world and each other."""

    def divisor(of: int) -> int:
        return draw(st.sampled_from(_divisors(of)))

    pp = divisor(world_size)
    stage = world_size // pp
    tp = divisor(stage)
    ep = divisor(stage) if is_moe else 1
    return {
        "pp": pp,
        "tp": tp,
        "cp": divisor(stage // tp),
        "ep": ep,
        "etp": divisor(stage // ep) if is_moe else 1,
        "vpp": draw(st.sampled_from([1, 1, 2, 3])) if pp > 1 else 1,
        "micro_batch_size": draw(st.sampled_from([1, 2])),
    }


OTHERS = [
    (),
    ("moe_expert_capacity_factor=1.25",),
    ("moe_pad_expert_input_to_capacity=true",),
    ("moe_pad_expert_input_to_capacity=true", "moe_expert_capacity_factor=2"),
    ("fp8_format=hybrid",),
    ("fp8_format=e4m3", "fp8_recipe=tensorwise"),
    ("fp8_param_gather=true",),
]


@st.composite
def _settings(
    draw: st.DrawFn, num_layers: int, pp: int, *, is_moe: bool, is_full: bool
) -> tuple[str, ...]:
    """Settings that decide the split, right or wrong, and others that the model's builder reads."""
    chosen = list(draw(st.sampled_from(OTHERS))) if is_moe and is_full else []
    kind = draw(st.sampled_from(["none", "none", "ends", "accounted", "layout"]))
    if kind == "ends":
        for end in draw(st.sampled_from([("first",), ("last",), ("first", "last")])):
            size = draw(st.integers(1, num_layers))
            chosen.append(f"decoder_{end}_pipeline_num_layers={size}")
    if kind in ("accounted", "ends"):
        few = st.lists(st.sampled_from(["embedding", "loss"]), unique=True, max_size=2)
        accounted = draw(few) if kind == "accounted" or draw(st.integers(0, 4)) == 0 else []
        chosen += [f"account_for_{end}_in_pipeline_split=true" for end in accounted]
    if kind == "layout":
        chunks = pp * draw(st.sampled_from([1, 1, 2]))
        layers = num_layers + draw(st.sampled_from([0, 0, 0, 1, -1]))
        cuts = st.lists(st.integers(0, layers), min_size=chunks - 1, max_size=chunks - 1)
        bounds = [0, *sorted(draw(cuts)), layers]
        held = ["t" * (end - first) for first, end in pairwise(bounds)]
        chosen.append(f"pipeline_model_parallel_layout=E{'|'.join(held)}L")
    return tuple(chosen)


def _named(settings: Settings, num_layers: int, sizes: dict[str, int]) -> PipelineSplit | None:
    """The split of settings; ms-swift reads the virtual stages in a layout string."""
    layout = settings.pipeline_model_parallel_layout
    if layout is not None:
        sizes["vpp"] = max(1, len(layout_chunks(layout)) // sizes["pp"])
    return named_split(settings, num_layers, sizes["pp"], sizes["vpp"])


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    """A layout whose sizes fit together, with at most one of them replaced by any other, and
    settings of any kind."""
    model = draw(st.sampled_from(sorted(models.SHORT)))
    world_size = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24]))
    sizes = _parallel_sizes(draw, world_size, is_moe="2.5" not in model)
    a_step = sizes["micro_batch_size"] * world_size // (sizes["tp"] * sizes["cp"])
    if draw(st.booleans()):
        sizes[draw(st.sampled_from(SIZES))] = draw(st.sampled_from([1, 2, 3, 4, 5, 8]))
    num_layers = models.short_config(model)["num_hidden_layers"]
    tuner = draw(st.sampled_from(TunerType))
    mtp = draw(st.sampled_from([0, 1])) if "deepseek" in model else 0
    is_moe, is_full = "2.5" not in model, tuner is TunerType.FULL
    words = draw(_settings(num_layers, sizes["pp"], is_moe=is_moe, is_full=is_full))
    given = read_settings(words)
    if given.names_split:
        chosen_split = _named(given, num_layers, sizes)
    else:
        chosen_split = draw(_splits(num_layers, sizes["pp"], sizes["vpp"]))
    return Candidate(
        model,
        Workload(
            seq_length=9216,  # 2^10 * 9: tp and cp may be multiples of three
            global_batch_size=a_step * draw(st.integers(1, 3)),
            tuner_type=tuner,
            mtp_num_layers=mtp,
            placement=Placement.ANY,
        ),
        Sizes(
            world_size=world_size,
            recompute=draw(st.sampled_from(RECOMPUTE)),
            split=chosen_split,
            dispatcher=draw(st.sampled_from(["alltoall"] * 9 + ["allgather"])),
            **sizes,
        ),
        given,
    )
