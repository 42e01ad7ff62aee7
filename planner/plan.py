"""A plan: one layout with everything that was predicted for it. Round-trips through JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from planner.layout import Layout, PipelineSplit, Recompute
from planner.messages import MESSAGES

FLOPS_CONVENTION = (
    "3 x forward; causal attention halved; top-k and shared experts, router and output layer "
    "counted, recomputation not (Megatron-LM since commit 8873b55d6a)"
)

HOST_REASONS = ("reason.host", "reason.host_assumed")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something was chosen: an id of `planner.messages` and its values."""

    id: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The sentence."""
        return MESSAGES[self.id].text.format_map(self.values)

    @property
    def fix(self) -> str:
        """The nearest thing that works; empty where nothing is wrong."""
        return MESSAGES[self.id].fix.format_map(self.values)

    def to_json(self) -> dict[str, Any]:
        """Id, sentence and values."""
        return {"id": self.id, "message": self.message, "values": self.values}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRule:
    """A rule that the layout breaks."""

    rule: str
    kind: str  # illegal | placement
    message: str
    fix: str  # the nearest thing that works
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """What is predicted for the worst rank of one pipeline stage; layer ids are 0-based."""

    stage: int
    worst_rank: int
    num_layers: int
    layer_ids: list[list[int]]
    parameters: int
    expert_parameters: int
    trainable_parameters: int
    compute_seconds: float
    memory_bytes: dict[str, Any]  # terms {id: bytes}, peak_moment, and the peaks

    @property
    def terms(self) -> dict[str, int]:
        """Bytes by term at the peak."""
        found: dict[str, int] = self.memory_bytes["terms"]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A layout, its arguments, predictions and reasons.

    Where a broken rule leaves nothing to evaluate, `verdict` is None and there are no stages.
    """

    layout: Layout
    args: dict[str, Any]
    verdict: str | None = None  # fits | tight | exceeds
    odds_of_fitting: float | None = None  # 0 to 1, of its GPUs' memory
    resumes: str | None = None  # yes | maybe | no
    violations: list[BrokenRule] = field(default_factory=list)
    stages: list[StagePlan] = field(default_factory=list)
    host_memory_bytes: dict[str, int] = field(default_factory=dict)
    step_seconds: dict[str, Any] = field(default_factory=dict)
    saving: dict[str, float] = field(default_factory=dict)  # beside the steps
    tokens_per_second_per_gpu: float = 0.0
    samples_per_second: float = 0.0
    model_tflops_per_gpu: float = 0.0
    confidence: dict[str, Any] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)

    @property
    def lacks(self) -> Reason | None:
        """What the memory of its hosts lacks; None: nothing."""
        return next((each for each in self.reasons if each.id in HOST_REASONS), None)

    @property
    def device_used(self) -> int:
        """Device memory of the fullest stage, in bytes; of a plan with stages."""
        used: int = max(stage.memory_bytes["device_used"] for stage in self.stages)
        return used

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values, in the shape of the contract."""
        return {
            "layout": layout_to_json(self.layout),
            "verdict": self.verdict,
            "odds_of_fitting": self.odds_of_fitting,
            "resumes": self.resumes,
            "violations": [asdict(rule) for rule in self.violations],
            "args": self.args,
            "stages": [asdict(stage) for stage in self.stages],
            "host_memory_bytes": self.host_memory_bytes,
            "step_seconds": self.step_seconds,
            "saving": self.saving,
            "tokens_per_second_per_gpu": self.tokens_per_second_per_gpu,
            "samples_per_second": self.samples_per_second,
            "model_tflops_per_gpu": self.model_tflops_per_gpu,
            "flops_convention": FLOPS_CONVENTION,
            "confidence": self.confidence,
            "reasons": [reason.to_json() for reason in self.reasons],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Plan":
        """The plan that `to_json` gave. Raises KeyError, TypeError or ValueError for another."""
        return cls(
            layout=layout_from_json(content["layout"]),
            args=dict(content["args"]),
            verdict=content["verdict"],
            odds_of_fitting=content["odds_of_fitting"],
            resumes=content.get("resumes"),  # plans of before did not say
            violations=[BrokenRule(**rule) for rule in content["violations"]],
            stages=[StagePlan(**stage) for stage in content["stages"]],
            host_memory_bytes=dict(content["host_memory_bytes"]),
            step_seconds=dict(content["step_seconds"]),
            saving=dict(content.get("saving", {})),  # plans of before had none
            tokens_per_second_per_gpu=float(content["tokens_per_second_per_gpu"]),
            samples_per_second=float(content["samples_per_second"]),
            model_tflops_per_gpu=float(content["model_tflops_per_gpu"]),
            confidence=dict(content["confidence"]),
            reasons=[Reason(each["id"], dict(each["values"])) for each in content["reasons"]],
        )


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """A layout under ms-swift's names; `pipeline_chunks` is the split, [first, end) of layers."""
    recompute = layout.recompute
    return {
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.vpp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.etp,
        "context_parallel_size": layout.cp,
        "data_parallel_size": layout.dp,
        "expert_data_parallel_size": layout.edp,
        "micro_batch_size": layout.micro_batch_size,
        "global_batch_size": layout.global_batch_size,
        "num_microbatches": layout.num_microbatches,
        "sequence_parallel": layout.sequence_parallel,
        "recompute_granularity": recompute.granularity,
        "recompute_method": recompute.method,
        "recompute_num_layers": recompute.num_layers,
        "recompute_modules": list(recompute.modules),
        "moe_token_dispatcher_type": layout.dispatcher,
        "world_size": layout.world_size,
        "pipeline_chunks": [[list(chunk) for chunk in stage] for stage in layout.split.chunks],
    }


def layout_from_json(content: Mapping[str, Any]) -> Layout:
    """The layout that `layout_to_json` gave."""
    chunks = tuple(
        tuple((int(first), int(end)) for first, end in stage)
        for stage in content["pipeline_chunks"]
    )
    return Layout(
        world_size=content["world_size"],
        tp=content["tensor_model_parallel_size"],
        pp=content["pipeline_model_parallel_size"],
        vpp=content["virtual_pipeline_model_parallel_size"],
        ep=content["expert_model_parallel_size"],
        etp=content["expert_tensor_parallel_size"],
        cp=content["context_parallel_size"],
        micro_batch_size=content["micro_batch_size"],
        global_batch_size=content["global_batch_size"],
        recompute=Recompute(
            granularity=content["recompute_granularity"],
            method=content["recompute_method"],
            num_layers=content["recompute_num_layers"],
            modules=tuple(content["recompute_modules"]),
        ),
        split=PipelineSplit(chunks),
        dispatcher=content["moe_token_dispatcher_type"],
    )
