"""What is set against what it is set for: the release, the model, the tuner."""

from planner.errors import UsageError
from planner.flag_history import MEGATRON, new_flags, old_name
from planner.model_spec import ModelSpec
from planner.parameters import ALL_LINEAR, linear_parts, names_of
from planner.pipeline_layout import layout_chunks
from planner.problem import Problem
from planner.setting_table import SettingValue, setting_table
from planner.settings import NEEDS, Settings
from planner.workload import Task, TunerType, Workload
from planner.yaml_files import shortened, suggestion


def check_settings(problem: Problem) -> None:
    """Refuse what the stack lacks or ignores, and what is not modelled together.

    Raises UsageError: setting.since, setting.needs, setting.not_modelled, setting.target_modules,
    setting.conflict.
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
    _check_stream(problem)
    _check_weight_decay(settings)
    _check_split_texts(settings, workload)


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


def _check_stream(problem: Problem) -> None:
    """A stream has no length (ms-swift 4.6.0, swift/megatron/arguments/megatron_args.py:
    init_iters)."""
    given, recipe = problem.settings.given, problem.recipe
    if not given.get("streaming"):
        return
    if given.get("save_strategy") == "epoch":
        raise _conflict(
            "streaming=true",
            "with save_strategy=epoch",
            "a stream has no length, so that no epoch of it ends",
            "leave out save_strategy, and say --set save_steps=STEPS",
        )
    if recipe.train_iters is None:
        raise _conflict(
            "streaming=true",
            "without train_iters",
            "a stream has no length, so that its epochs are no number of steps",
            "say --set train_iters=STEPS too",
        )
    if "val_dataset" in given and _is_negative(given.get("eval_iters", -1)):
        raise _conflict(
            "streaming=true",
            "with val_dataset and without eval_iters",
            "a stream has no length, so that evaluation has no end",
            "say --set eval_iters=STEPS too",
        )


def _is_negative(value: SettingValue) -> bool:
    return isinstance(value, int) and value < 0


def _check_weight_decay(settings: Settings) -> None:
    """What weight decay moves between is said where it moves (ms-swift 4.6.0,
    swift/megatron/arguments/megatron_args.py: _init_weigh_decay)."""
    ends = ("start_weight_decay", "end_weight_decay")
    style = settings.given.get("weight_decay_incr_style", "constant")
    said = [name for name in ends if name in settings.given]
    if style == "constant" and said:
        raise _conflict(
            said[0],
            "without weight_decay_incr_style",
            "a constant weight decay has neither start nor end",
            "say --set weight_decay_incr_style=linear or cosine too, or weight_decay alone",
        )
    if style != "constant" and len(said) < len(ends):
        lacking = next(name for name in ends if name not in said)
        raise _conflict(
            f"weight_decay_incr_style={style}",
            f"without {lacking}",
            "it has no value of its own for where weight decay starts and ends",
            f"say --set {lacking}=VALUE too",
        )


def _check_split_texts(settings: Settings, workload: Workload) -> None:
    """Texts are split in pretraining (ms-swift 4.6.0, swift/pipelines/train/sft.py:
    _encode_dataset)."""
    if settings.given.get("truncation_strategy") != "split":
        return
    if settings.given.get("use_chat_template", workload.task is Task.SFT):
        raise _conflict(
            "truncation_strategy=split",
            "with a chat template",
            "only texts of pretraining are split",
            "say --task pt, or another truncation_strategy",
        )
    if settings.given.get("lazy_tokenize"):
        raise _conflict(
            "truncation_strategy=split",
            "with lazy_tokenize",
            "texts are split before training",
            "leave out lazy_tokenize",
        )


def _conflict(name: str, where: str, why: str, instead: str) -> UsageError:
    return UsageError("setting.conflict", name=name, where=where, why=why, instead=instead)
