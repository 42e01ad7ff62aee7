"""Ranks of the runs of sft.jsonl: what was predicted of each, and what it said of itself."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from predict import Predicted, predict, results

from measure.verify.row import read_rows

ROWS = Path(__file__).parent / "sft.jsonl"
RESULTS = "sft_2ranks_h200.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRank:
    """A rank of a real run; `seen` is what it wrote after each step, before the first at 0."""

    tag: str
    predicted: Predicted
    seen: list[dict[str, Any]]
    logged_memory_gib: float  # by ms-swift after the last step: the most of all ranks

    @property
    def measured(self) -> dict[str, int]:
        """Bytes, by the names of `report.QUANTITIES`; peaks since the process began."""
        first, last = self.seen[0], self.seen[-1]
        return {
            "after_build": first["allocated"],
            "steady": last["allocated"],
            "peak_allocated": last["peak_allocated"],
            "peak_reserved": last["peak_reserved"],
        }

    @property
    def beside_reserved(self) -> int:
        """Bytes of the device that the process takes and its allocator does not know: the most."""
        looked = [seen for seen in self.seen if seen.get("device_used")]
        return max(seen["device_used"] - seen["reserved"] for seen in looked)

    @property
    def expert_load(self) -> float:
        """Tokens that this rank's experts got over those that a full, balanced pack gives them."""
        tokens = [count for seen in self.seen for count in seen.get("expert_tokens", [])]
        return mean(tokens) / self._balanced

    @property
    def most_expert_load(self) -> float:
        """The same of the layer and microbatch that had the most."""
        return max(max(seen.get("expert_tokens", [0])) for seen in self.seen) / self._balanced

    @property
    def _balanced(self) -> float:
        layout, row = self.predicted.layout, self.predicted.row
        tokens = layout.micro_batch_size * int(row.argv[row.argv.index("--max_length") + 1])
        return tokens / layout.cp / layout.tp * row.config["num_experts_per_tok"]


def real_ranks() -> Iterator[RealRank]:
    """Every rank of every run that was measured, predicted at balanced routing and full packs."""
    measured = results(RESULTS)
    for row in read_rows(ROWS):
        if row.id not in measured:
            continue
        for number, seen in enumerate(measured[row.id]["ranks"]):
            yield RealRank(
                tag=row.id.removeprefix("sft-"),
                predicted=predict(replace(row, rank=number), {}),
                seen=seen,
                logged_memory_gib=measured[row.id]["logged_memory_gib"][-1],
            )
