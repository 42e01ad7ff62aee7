"""How a run learns, reads, saves and waits: `data/recipes/*.yaml`, or a file of the user's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.errors import UsageError
from planner.workload import TunerType
from planner.yaml_files import checked, known_names, load_yaml, named_file, suggestion

RECIPES_FOLDER = Path(__file__).parent / "data" / "recipes"
DEFAULT_RECIPE = "sft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The values of a recipe for one tuner, named by ms-swift 4.6's flags.

    `reasons` says why a value is what it is, by flag. `train_iters`, when given, replaces
    `num_train_epochs`.
    """

    num_train_epochs: int
    train_iters: int | None
    lr: float
    min_lr: float
    lr_warmup_fraction: float
    lr_decay_style: str
    optimizer: str
    lora_alpha: int | None  # None: nothing but full fine-tuning
    moe_aux_loss_coeff: float
    moe_router_dtype: str
    moe_grouped_gemm: bool
    moe_permute_fusion: bool
    moe_shared_expert_overlap: bool
    cross_entropy_loss_fusion: bool
    overlap_grad_reduce: bool
    overlap_param_gather: bool
    dataloader_num_workers: int
    dataset_num_proc: int
    load_from_cache_file: bool
    split_dataset_ratio: float
    save_steps: int
    save_total_limit: int
    no_save_optim: bool
    no_save_rng: bool
    logging_steps: int
    ddp_timeout: int  # seconds
    seed: int
    reasons: Mapping[str, str] = field(hash=False)


def known_recipes() -> list[str]:
    """The names of the recipes that come with the planner."""
    return known_names(RECIPES_FOLDER)


@lru_cache
def load_recipe(tuner_type: TunerType, name_or_path: str = DEFAULT_RECIPE) -> Recipe:
    """A recipe's values for a tuner, by its name or from the YAML file at a path.

    Raises UsageError: recipe.unknown, and those of `planner.yaml_files.load_yaml_model`.
    """
    path = named_file(name_or_path, RECIPES_FOLDER)
    if path is None:
        hint = suggestion(name_or_path, known_recipes())
        raise UsageError("recipe.unknown", name=name_or_path, suggestion=hint)
    content = _content(path)
    tuner = content["full" if tuner_type is TunerType.FULL else "lora"]
    sourced = content["common"] | tuner
    values = {"lora_alpha": None} | {flag: item["value"] for flag, item in sourced.items()}
    return Recipe(**values, reasons={flag: item["source"] for flag, item in sourced.items()})


def _content(path: Path) -> dict[str, Any]:
    """What a file holds, as `planner.recipe_schema` describes it. Tests hold the planner's own
    against it: to make the schema takes a fiftieth of the time of a plan."""
    content: dict[str, Any] = load_yaml(path)
    if path.parent == RECIPES_FOLDER:
        return content
    from planner.recipe_schema import RecipeFile

    return checked(path, content, RecipeFile).model_dump(exclude_unset=True)
