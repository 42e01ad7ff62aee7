"""What is measured: one rank of one run, as a JSON object."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

# Of config.json, by model type: what planner/architectures reads.
NUMBERS_OF_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
TRAIN_ITERS = 1000  # of the learning-rate schedule; how many steps are measured is `Row.steps`
MOST_LEFT_FOR_NEXT_BYTES = 2**27  # by a row; more would be missing for the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One rank of a run.

    `config` is the model's config.json; `argv` the words after `megatron sft` but those of a site
    (model folder, data, output folder). `documents_per_pack` divide a pack equally; `expert_load`
    is what this rank's experts get over the mean. `family`, `stage` and `set_aside` are for those
    who read the results.
    """

    id: str
    family: str
    set_aside: bool
    world_size: int
    rank: int
    stage: str
    config: dict[str, Any]
    model_type: str
    template: str
    argv: list[str]
    documents_per_pack: int = 4
    expert_load: float = 1.0
    steps: int = 3

    def to_json(self) -> str:
        """The row as one line; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Row":
        """The row that `to_json` gave. Raises TypeError, ValueError: it is none."""
        content = json.loads(line)
        unknown = content.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"not of a row: {sorted(unknown)}")
        return cls(**content)

    def training_argv(self, folder: Path, *, can_bias: bool = True) -> list[str]:
        """The arguments of `megatron sft` with `folder` as model and output folder; `can_bias`:
        see `routing_kwargs`."""
        site = {
            "model": folder,
            "model_type": self.model_type,
            "template": self.template,
            "dataset": "none.jsonl",
            "output_dir": folder / "output",
            "train_iters": TRAIN_ITERS,
            "megatron_extra_kwargs": json.dumps(self.routing_kwargs(can_bias=can_bias)),
        }
        return [word for name, value in site.items() for word in (f"--{name}", str(value))] + [
            *self.argv
        ]

    def routing_kwargs(self, *, can_bias: bool = True) -> dict[str, Any]:
        """What Megatron-Core must be told for the wanted loads: random logits, with a bias where it
        can add one (`routing.can_bias`), else `routing` does.

        Source: megatron-core 0.18.1, transformer/moe/router.py:693-705; a negative deviation makes
        it keep each layer's bias (moe_utils.py:1200-1214), which `routing` writes.
        """
        language = self.config.get("text_config", self.config)
        if not any(language.get(name) for name in NUMBERS_OF_EXPERTS):
            return {}
        if self.expert_load == 1.0 or not can_bias:
            return {"moe_router_force_load_balancing": True}
        return {"moe_router_force_biased": -1.0}


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSON Lines file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield Row.from_json(line)
