"""The form of a recipe's file."""

from typing import Annotated, Literal

from pydantic import Field

from planner.yaml_files import Sourced, StrictModel

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


class RecipeFile(StrictModel):
    """A file: values with their reasons, by the flags of ms-swift 4.6."""

    description: str
    common: _Common
    full: _Full
    lora: _Lora
