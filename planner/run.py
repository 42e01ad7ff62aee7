"""A run: what `launch` and `convert` read. run.json is its JSON."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from planner.errors import UsageError
from planner.model_spec import ModelSpec
from planner.plan import Plan
from planner.recipe import Recipe
from planner.site import Site
from planner.stack import Stack
from planner.yaml_files import one_line, shortened

FORMAT_VERSION = "1.0"


class Load(StrEnum):
    """Where training reads the weights."""

    MCORE = "mcore"  # from Megatron-Core's format, converted once before
    DIRECT = "direct"  # from the Hugging Face folder, at every start


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """The GPUs that the plan is for."""

    num_nodes: int
    gpus_per_node: int
    gpu_name: str
    gpu_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Plan, recipe and site, with all that is needed to write scripts from them alone."""

    plan: Plan
    recipe: Recipe
    site: Site
    model: ModelSpec
    machines: Machines
    stack: Stack
    load: Load = Load.MCORE

    def to_json(self) -> dict[str, Any]:
        """The run as plain values; `from_json` reads them back."""
        parts = {
            name: adapter.dump_python(getattr(self, name), mode="json")
            for name, adapter in _PARTS.items()
        }
        return {"format_version": FORMAT_VERSION, "plan": self.plan.to_json(), **parts}

    @classmethod
    def from_json(cls, content: object, *, origin: str) -> "Run":
        """The run that `to_json` gave; `origin` names it in messages.

        Raises UsageError: run.not_a_run.
        """
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            reason = f"it has no format_version {FORMAT_VERSION}"
            raise UsageError("run.not_a_run", path=origin, reason=reason)
        missing = [name for name in ("plan", *_PARTS) if name not in content]
        if missing:
            reason = f"{', '.join(missing)} is missing"
            raise UsageError("run.not_a_run", path=origin, reason=reason)
        try:
            parts = {
                name: adapter.validate_json(json.dumps(content[name]), strict=True)
                for name, adapter in _PARTS.items()
            }
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = one_line(
                f"{error.title}: {where}: {first['msg']} ({shortened(first['input'])})"
            )
            raise UsageError("run.not_a_run", path=origin, reason=reason) from None
        return cls(plan=Plan.from_json(content["plan"]), **parts)


_PARTS: dict[str, TypeAdapter[Any]] = {
    "recipe": TypeAdapter(Recipe),
    "site": TypeAdapter(Site),
    "model": TypeAdapter(ModelSpec),
    "machines": TypeAdapter(Machines),
    "stack": TypeAdapter(Stack),
    "load": TypeAdapter(Load),
}


def read_run(run_folder: Path) -> Run:
    """The run of a run folder.

    Raises UsageError: file.unreadable, file.not_json, run.not_a_run.
    """
    path = run_folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError("file.unreadable", path=path, reason=reason) from None
    except (ValueError, RecursionError) as error:
        raise UsageError("file.not_json", path=path, reason=one_line(error)) from None
    return Run.from_json(content, origin=str(path))
