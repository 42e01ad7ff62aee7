"""How a run learns, reads, saves and waits: `data/recipes/*.yaml`, or a file of the user's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from planner.errors import UsageError
from planner.workload import TunerType
from planner.yaml_files import (
    Sourced,
    StrictModel,
    known_names,
    load_yaml_model,
    named_file,
    suggestion,
)

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


_Count = Annotated[int, Field(ge=1)]
_Rate = Annotated[float, Field(gt=0, lt=1)]
_Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Common(StrictModel):
    num_train_epochs: Sourced[_Count]
    train_iters: Sourced[_Count | None]
    lr_warmup_fraction: Sourced[_Fraction]
    lr_decay_style: Sourced[Literal["constant", "linear", "cosine"]]
    optimizer: Sourced[Literal["adam"]]
    moe_aux_loss_coeff: Sourced[_Fraction]
    moe_router_dtype: Sourced[Literal["none", "fp32", "fp64"]]
    moe_grouped_gemm: Sourced[bool]
    moe_permute_fusion: Sourced[bool]
    moe_shared_expert_overlap: Sourced[bool]
    cross_entropy_loss_fusion: Sourced[bool]
    dataloader_num_workers: Sourced[Annotated[int, Field(ge=0)]]
    dataset_num_proc: Sourced[_Count]
    load_from_cache_file: Sourced[bool]
    split_dataset_ratio: Sourced[_Fraction]
    save_steps: Sourced[_Count]
    save_total_limit: Sourced[Annotated[int, Field(ge=2)]]  # ms-swift 4.6 refuses 1
    no_save_optim: Sourced[bool]
    no_save_rng: Sourced[bool]
    logging_steps: Sourced[_Count]
    ddp_timeout: Sourced[Annotated[int, Field(ge=60)]]  # ms-swift counts whole minutes
    seed: Sourced[Annotated[int, Field(ge=0)]]


class _Full(StrictModel):
    lr: Sourced[_Rate]
    min_lr: Sourced[_Fraction]
    overlap_grad_reduce: Sourced[bool]
    overlap_param_gather: Sourced[bool]


class _Lora(_Full):
    lora_alpha: Sourced[_Count]


class _RecipeFile(StrictModel):
    description: str
    common: _Common
    full: _Full
    lora: _Lora


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
    file = load_yaml_model(path, _RecipeFile)
    tuner = file.full if tuner_type is TunerType.FULL else file.lora
    sourced = dict(file.common) | dict(tuner)
    values = {"lora_alpha": None} | {flag: item.value for flag, item in sourced.items()}
    return Recipe(**values, reasons={flag: item.source for flag, item in sourced.items()})
