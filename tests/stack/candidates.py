"""Layouts of short models that may be illegal, in the planner's words and in the stack's."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from planner.constraints import violations
from planner.layout import Layout, PipelineSplit, Recompute
from planner.model_config import model_spec_from_config
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


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    """A layout whose sizes fit together, with at most one of them replaced by any other."""
    model = draw(st.sampled_from(sorted(models.SHORT)))
    world_size = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24]))
    sizes = _parallel_sizes(draw, world_size, is_moe="2.5" not in model)
    a_step = sizes["micro_batch_size"] * world_size // (sizes["tp"] * sizes["cp"])
    if draw(st.booleans()):
        sizes[draw(st.sampled_from(SIZES))] = draw(st.sampled_from([1, 2, 3, 4, 5, 8]))
    num_layers = models.short_config(model)["num_hidden_layers"]
    return Candidate(
        model,
        Workload(
            seq_length=9216,  # 2^10 * 9: tp and cp may be multiples of three
            global_batch_size=a_step * draw(st.integers(1, 3)),
            tuner_type=draw(st.sampled_from(TunerType)),
            mtp_num_layers=draw(st.sampled_from([0, 1])) if "deepseek" in model else 0,
            placement=Placement.ANY,
        ),
        Sizes(
            world_size=world_size,
            recompute=draw(st.sampled_from(RECOMPUTE)),
            split=draw(_splits(num_layers, sizes["pp"], sizes["vpp"])),
            dispatcher=draw(st.sampled_from(["alltoall"] * 9 + ["allgather"])),
            **sizes,
        ),
    )
