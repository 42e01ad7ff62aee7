"""What runs that are far off have in common: the first of REASONS that applies."""

from collections.abc import Callable
from dataclasses import dataclass

from published_runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why some runs are far off."""

    applies: Callable[[Run], bool]
    text: str


def _crosses_hosts(run: Run) -> bool:
    return bool(run.get("ep") * run.get("etp") > run.problem.cluster.gpus_per_node)


REASONS = {
    "packs in context parallel": Reason(
        applies=lambda run: "mean_document_tokens" in run.facts and run.get("cp") > 1,
        text="packs of short documents with context parallelism. Their source calls these runs "
        "sanity checks, not tuned. A layer takes 35 to 450 ms, of which products and collectives "
        "explain 5 to 20: each document is split over the ranks, and the stack's ways to do so are "
        "not modelled",
    ),
    "other cluster": Reason(
        applies=lambda run: run.id == "GV0617",
        text="the same test, with the same flags, took 7.6 times as long there as in GV0616",
    ),
    "published twice": Reason(
        applies=lambda run: run.id == "MX0065",
        text="the same job with the same file was published again as MX0076, 1.4 times as fast",
    ),
    "test": Reason(
        applies=lambda run: run.test is not None,
        text="a functional test of a narrow model on a machine of continuous integration: the host "
        "decides, and which one is not known",
    ),
    "packs": Reason(
        applies=lambda run: "mean_document_tokens" in run.facts,
        text="fine-tuning on packs of short documents, which their source calls sanity checks: up "
        "to 2048 tokens a rank in most of them, or one microbatch, so that the host decides",
    ),
    "all-to-all over hosts": Reason(
        applies=lambda run: run.facts.get("dispatcher") == "alltoall" and _crosses_hosts(run),
        text="plain all-to-all between hosts. Two families say different things: with gpt-oss a "
        "layer takes 13 ms more than the same layer with its experts on one host, five times "
        "what its bytes take at the rate of Qwen3-30B-A3B's all-to-all",
    ),
    "hidden exchange": Reason(
        applies=lambda run: "expert_parallel" in run.facts.get("overlap", ()),
        text="expert-parallel communication beside another microbatch. The model hides 45% of it "
        "at the most, which was chosen by what sources say of MX0277 and MX0279: they are "
        "two of the runs compared. A profile of MX0279 shows 37% beside matrix products and "
        "attention; with another dispatcher the step shrank by half of what is predicted of it",
    ),
    "graphs": Reason(
        applies=lambda run: "cuda_graphs" in run.facts,
        text="router and preprocessing in CUDA graphs, which no launch time is known of",
    ),
    "rest": Reason(applies=lambda run: True, text="not explained"),
}


def reason_of(run: Run) -> str:
    """The key of the reason that a run is far off for."""
    return next(key for key, reason in REASONS.items() if reason.applies(run))
