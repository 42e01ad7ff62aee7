"""What `--set NAME=VALUE` says: arguments that memory, time or rules know, and those handed on.

The names are those of ms-swift 4.6, and so are the defaults.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from planner.errors import UsageError
from planner.pipeline_layout import layout_chunks
from planner.recipe import Recipe
from planner.setting_table import Flag, SettingValue, example_of, read_setting

# What says which layers a stage holds.
SPLIT_FLAGS = (
    "decoder_first_pipeline_num_layers",
    "decoder_last_pipeline_num_layers",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
    "pipeline_model_parallel_layout",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Arguments of `megatron sft` that memory, time or rules know, under their own names.

    `given` holds every flag that was set, those of a recipe and those handed on unchanged with
    them, in the order of the table.
    """

    # the pipeline
    decoder_first_pipeline_num_layers: int | None = None
    decoder_last_pipeline_num_layers: int | None = None
    account_for_embedding_in_pipeline_split: bool = False
    account_for_loss_in_pipeline_split: bool = False
    pipeline_model_parallel_layout: str | None = None
    microbatch_group_size_per_vp_stage: int | None = None
    # the optimizer
    optimizer: str = "adam"
    use_distributed_optimizer: bool = True
    use_precision_aware_optimizer: bool = False
    main_grads_dtype: str = "fp32"
    main_params_dtype: str = "fp32"
    exp_avg_dtype: str = "fp32"
    exp_avg_sq_dtype: str = "fp32"
    accumulate_allreduce_grads_in_fp32: bool = False
    optimizer_cpu_offload: bool = False
    optimizer_offload_fraction: float = 1.0
    # fp8
    fp8_format: str | None = None
    fp8_recipe: str = "delayed"
    fp8_param_gather: bool = False
    # experts
    moe_expert_capacity_factor: float | None = None
    moe_pad_expert_input_to_capacity: bool = False
    # adapters
    target_modules: tuple[str, ...] = ("all-linear",)
    # everything that was set
    given: Mapping[str, SettingValue] = field(default_factory=dict, hash=False)

    @property
    def names_split(self) -> bool:
        """Whether the split of the layers is said, not solved."""
        return any(name in self.given for name in SPLIT_FLAGS)

    @property
    def offloaded_fraction(self) -> float:
        """Of the optimizer's states, what lies on the host."""
        return self.optimizer_offload_fraction if self.optimizer_cpu_offload else 0.0

    @property
    def gradient_bytes(self) -> int:
        """Of a gradient in the buffer that is reduced.

        ms-swift turns accumulate_allreduce_grads_in_fp32 on for fp32 main gradients (4.6.0,
        swift/megatron/arguments/megatron_args.py: _map_dtype).
        """
        in_fp32 = self.main_grads_dtype == "fp32" or self.accumulate_allreduce_grads_in_fp32
        return 4 if in_fp32 else 2


AS_PLANNED = Settings()
"""Nothing is set."""

MODELLED = frozenset(each.name for each in fields(Settings)) - {"given"}
"""Names of settings that bear on memory, time or legality."""


def read_settings(texts: Iterable[str]) -> Settings:
    """The settings of all NAME=VALUE that were given.

    Raises UsageError: setting.twice, setting.layout, and those of `read_setting`.
    """
    flags: dict[str, Flag] = {}
    values: dict[str, SettingValue] = {}
    for text in texts:
        flag, value = read_setting(text)
        if flag.name in values:
            raise UsageError("setting.twice", name=flag.name)
        flags[flag.name], values[flag.name] = flag, value
    for flag in flags.values():
        _check_needs(flag, values)
    if {"num_train_epochs", "train_iters"} <= values.keys():
        raise UsageError("setting.both", name="num_train_epochs", other="train_iters")
    layout = values.get("pipeline_model_parallel_layout")
    if isinstance(layout, str):
        layout_chunks(layout)
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in MODELLED
    }
    return Settings(**known, given=values)


# What a setting can need that is no setting itself.
NEEDS = {
    "lora": "--tuner-type lora",
    "experts": "a model with experts",
    "mtp": "--mtp-num-layers",
}


def _check_needs(flag: Flag, values: Mapping[str, SettingValue]) -> None:
    """Refuse a flag that the stack would ignore without another one. Raises setting.needs."""
    needs = flag.spec.needs if flag.spec else None
    if needs is None or needs in NEEDS:
        return
    name, _, wanted = needs.partition("=")
    found = values.get(name)
    if found != wanted if wanted else not found:
        words = f"--set {name}={wanted or example_of(name)}"
        raise UsageError("setting.needs", name=flag.name, needs=words)


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with what was set in the place of its own values."""
    own = {each.name for each in fields(Recipe)} - {"reasons"}
    changes: dict[str, Any] = {name: value for name, value in settings.given.items() if name in own}
    reasons = {**recipe.reasons, **dict.fromkeys(changes, "given with --set")}
    if "num_train_epochs" in changes:
        changes.setdefault("train_iters", None)
    if not settings.use_distributed_optimizer and "overlap_param_gather" not in changes:
        changes["overlap_param_gather"] = False
        reasons["overlap_param_gather"] = "only the distributed optimizer gathers parameters"
    return replace(recipe, **changes, reasons=reasons) if changes else recipe
