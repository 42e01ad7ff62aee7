"""What is set against what it is set for: the release, the model, the tuner."""

from planner.errors import UsageError
from planner.flag_history import MEGATRON, new_flags, old_name
from planner.model_spec import ModelSpec
from planner.parameters import ALL_LINEAR, linear_parts, names_of
from planner.pipeline_layout import layout_chunks
from planner.problem import Problem
from planner.setting_table import setting_table
from planner.settings import NEEDS, Settings
from planner.workload import TunerType, Workload
from planner.yaml_files import shortened, suggestion


def check_settings(problem: Problem) -> None:
    """Refuse what the stack lacks or ignores, and what is not modelled together.

    Raises UsageError: setting.since, setting.needs, setting.not_modelled, setting.target_modules.
    """
    settings, model, workload = problem.settings, problem.model, problem.workload
    has = {
        "lora": workload.tuner_type is TunerType.LORA,
        "experts": model.is_moe,
        "mtp": workload.mtp_num_layers > 0,
    }
    for name in settings.given:
        spec = setting_table()[name].spec
        assert spec is not None
        if not _is_in(name, problem.stack.dialect):
            since = new_flags().first_release(name, MEGATRON)
            raise UsageError(
                "setting.since", name=name, since=since, ms_swift=problem.stack.ms_swift
            )
        if spec.needs in NEEDS and not has[spec.needs]:
            raise UsageError("setting.needs", name=name, needs=NEEDS[spec.needs])
    if "target_modules" in settings.given:
        _check_target_modules(settings, model)
    if settings.target_modules != (ALL_LINEAR,) and model.vision is not None:
        raise UsageError(
            "setting.not_modelled",
            name="target_modules",
            where=f"for {model.name}",
            why="modules of its vision tower can have the same names",
            instead="leave it out: all linear layers of the language model are adapted",
        )
    _check_fp8(settings, workload)
    _check_offload(settings)
    _check_layout(settings)


def _is_in(name: str, release: str) -> bool:
    """Whether a release of ms-swift has an argument, under its own or an older name."""
    if new_flags().has(name, release, MEGATRON):
        return True
    return old_name(name, release, MEGATRON) is not None


def _check_target_modules(settings: Settings, model: ModelSpec) -> None:
    known = sorted({name for part in linear_parts(model) for name in names_of(part)})
    for name in settings.target_modules:
        if name not in (ALL_LINEAR, *known):
            raise UsageError(
                "setting.target_modules",
                name=shortened(name),
                model=model.name,
                suggestion=suggestion(name[:100], [ALL_LINEAR, *known]),
            )


def _check_fp8(settings: Settings, workload: Workload) -> None:
    if settings.fp8_format is not None and workload.tuner_type is TunerType.LORA:
        raise UsageError(
            "setting.not_modelled",
            name="fp8_format",
            where="with LoRA",
            why="adapters run in fp8 too, and what they keep is not known",
            instead="leave out fp8_format, or train all parameters",
        )


def _check_offload(settings: Settings) -> None:
    if settings.optimizer_cpu_offload and not settings.use_distributed_optimizer:
        raise UsageError(
            "setting.not_modelled",
            name="optimizer_cpu_offload",
            where="without the distributed optimizer",
            why="its states would lie on the GPU and on the host at once",
            instead="leave out use_distributed_optimizer",
        )


def _check_layout(settings: Settings) -> None:
    """MTP layers stand with the loss: elsewhere they need the hidden states of two stages."""
    text = settings.pipeline_model_parallel_layout
    if text is not None and "m" in "".join(layout_chunks(text)[:-1]):
        raise UsageError(
            "setting.not_modelled",
            name="pipeline_model_parallel_layout",
            where="with MTP layers apart from the loss",
            why="what their stage holds and sends is not modelled",
            instead="write every m in the last chunk, before the L",
        )
