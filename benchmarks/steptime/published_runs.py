"""Predicts published runs: what they state as the planner's model, cluster, workload and layout."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import golden_runs
from published_filter import FILTER, Facts, is_in_bar, is_test, out_because, planned_as, published

from planner.compute import model_flops
from planner.evaluate import Evaluator
from planner.layout import Layout, Recompute
from planner.model_files import resolve_model
from planner.model_spec import ModelSpec
from planner.problem import Problem
from planner.recipe import load_recipe
from planner.settings import Settings
from planner.split import even_split
from planner.stack import load_stack
from planner.step_time import Overlap, StepTime
from planner.topology_files import load_topology
from planner.workload import ASSUMED_ROUTING_IMBALANCE, TunerType, Workload

GPUS_PER_NODE = 8
TERA = 1e12


@dataclass(frozen=True)
class Run:
    """An admitted run, with the defaults of what it does not state."""

    facts: Facts

    @property
    def id(self) -> str:
        """Its row in published.jsonl."""
        return str(self.facts["id"])

    def get(self, name: str) -> Any:
        """A fact, or its default."""
        return self.facts.get(name, FILTER["defaults"].get(name))

    @cached_property
    def test(self) -> golden_runs.Test | None:
        """The functional test of Megatron-LM that it is, if it is one."""
        if not is_test(self.facts):
            return None
        tests = golden_runs.tests()
        return next(test for test in tests if any(value.id == self.id for value in test.values))

    @cached_property
    def model(self) -> ModelSpec:
        """The model that was trained."""
        if self.test is not None:
            return golden_runs.model_of(self.test)
        model = resolve_model(str(planned_as(self.facts)))
        layers = FILTER["truncated"].get(self.facts["model"], model.num_layers)
        return replace(model, num_layers=layers, moe_layers=model.moe_layers[:layers])

    @cached_property
    def problem(self) -> Problem:
        """What the planner would be asked."""
        per_node = min(self.facts.get("gpus_per_node", GPUS_PER_NODE), self.facts["num_gpus"])
        tuner = TunerType.LORA if "lora_rank" in self.facts else TunerType.FULL
        return Problem(
            model=self.model,
            cluster=load_topology(
                FILTER["topologies"][self.facts["gpu"]],
                self.facts["num_gpus"] // per_node,
                per_node,
            ),
            workload=self._workload(tuner),
            stack=load_stack(FILTER["stack"]),
            recipe=load_recipe(tuner),
            settings=self._settings(),
        )

    @property
    def overlap(self) -> Overlap:
        """What its flags hide."""
        return Overlap(**dict.fromkeys(self.facts.get("overlap", ()), True))

    def _workload(self, tuner: TunerType) -> Workload:
        even = self.facts.get("routing") == "forced" or "capacity_factor" in self.facts
        lora = {}
        if tuner is TunerType.LORA:
            names = FILTER["target_modules"]
            modules = [name for each in self.facts["target_modules"] for name in names[each]]
            lora = {"lora_rank": self.facts["lora_rank"], "target_modules": tuple(modules)}
        return Workload(
            seq_length=self.facts["seq_length"],
            global_batch_size=self.facts["global_batch_size"],
            tuner_type=tuner,
            routing_imbalance=1.0 if even else ASSUMED_ROUTING_IMBALANCE,
            mean_document_tokens=self.facts.get("mean_document_tokens"),
            mtp_num_layers=self.model.mtp_num_layers if self.test is not None else 0,
            packing="mean_document_tokens" in self.facts,
            **lora,
        )

    def _settings(self) -> Settings:
        if self.test is not None:
            return golden_runs.settings_of(self.test.flags)
        known: dict[str, Any] = {}
        chunks = self.get("pp") * self.get("vpp")
        if self.facts.get("account_for_ends") or self.model.num_layers % chunks:
            known["account_for_embedding_in_pipeline_split"] = True
            known["account_for_loss_in_pipeline_split"] = True
        if "capacity_factor" in self.facts:
            known["moe_expert_capacity_factor"] = self.facts["capacity_factor"]
        if self.facts.get("distributed_optimizer") is False:
            known["use_distributed_optimizer"] = False
        return Settings(**known, given=known)

    def layout(self, evaluator: Evaluator) -> Layout:
        """Its layout."""
        pp, vpp = self.get("pp"), self.get("vpp")
        if self.test is not None:
            vpp = golden_runs.virtual_stages(self.test.flags)
        split = even_split(self.model.num_layers, pp, vpp)
        if self.problem.settings.names_split:
            split = evaluator.split(pp, vpp)
        assert split is not None, self.id
        return Layout(
            world_size=self.facts["num_gpus"],
            vpp=vpp,
            **{name: self.get(name) for name in ("tp", "pp", "ep", "etp", "cp")},
            micro_batch_size=self.facts["micro_batch_size"],
            global_batch_size=self.facts["global_batch_size"],
            recompute=recompute_of(self.facts["recompute"]),
            split=split,
            dispatcher=self.facts.get("dispatcher", "alltoall"),
        )

    @property
    def flops(self) -> float:
        """FLOPs of a step, as Megatron-LM counts them since commit 8873b55d6a."""
        return model_flops(self.model, self.problem.workload)

    @property
    def measured_seconds(self) -> float:
        """Seconds of a step: as printed, or from tokens/s, or from TFLOP/s as Megatron counts."""
        if "step_seconds" in self.facts:
            return float(self.facts["step_seconds"])
        if "tokens_per_second_per_gpu" in self.facts:
            rate = self.facts["tokens_per_second_per_gpu"] * self.facts["num_gpus"]
            return float(self.problem.workload.step_tokens / rate)
        return float(self.flops / (self.facts["tflops_per_gpu"] * TERA * self.facts["num_gpus"]))


def recompute_of(text: str) -> Recompute:
    """ "none", "selective/MODULE MODULE" or "full/METHOD/LAYERS"."""
    granularity, _, rest = text.partition("/")
    if granularity == "full":
        method, _, layers = rest.partition("/")
        return Recompute(granularity="full", method=method, num_layers=int(layers))
    return Recompute(granularity=granularity, modules=tuple(rest.split()))


def step_time(run: Run, problem: Problem) -> StepTime:
    """What the planner says of a run's step; `problem` is its own, calibrated or not."""
    evaluator = Evaluator(problem, run.overlap)
    layout = run.layout(evaluator)
    return evaluator.batch(layout).step_time(layout.recompute)


def admitted_runs() -> list[Run]:
    """All runs that the filter admits."""
    return [Run(facts) for facts in published() if out_because(facts) is None]


def bar_runs() -> list[Run]:
    """Those that the bar is about."""
    return [run for run in admitted_runs() if is_in_bar(run.facts)]
