"""ms-swift's own parser, argument classes and model factory, asked about one rank of a layout.

Runs inside the worker, where torch.cuda is answered by the meta device.
"""

import contextlib
import dataclasses
import io
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import swift
import torch
from mcore_bridge import get_mcore_model, split_cp_inputs
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe.moe_layer import MoELayer
from swift.arguments import ExportArguments, InferArguments
from swift.megatron.arguments import (
    MegatronExportArguments,
    MegatronPretrainArguments,
    MegatronSftArguments,
)
from swift.megatron.model.utils import get_mcore_model_config
from swift.megatron.utils import get_padding_to, prepare_mcore_model
from swift.utils.utils import _patch_get_type_hints
from transformers import AutoConfig, HfArgumentParser, PreTrainedConfig
from transformers.initialization import no_init_weights

from stack import fake_world

ARGUMENT_CLASSES = {
    "megatron sft": MegatronSftArguments,
    "megatron pt": MegatronPretrainArguments,
    "megatron export": MegatronExportArguments,
    "swift export": ExportArguments,
    "swift infer": InferArguments,
}


class ParserError(Exception):
    """The parser ended the program with this message."""


@cache
def _parser(subcommand: str) -> HfArgumentParser:
    """The parser that ms-swift makes for a subcommand (swift/utils/utils.py, parse_args)."""
    with _patch_get_type_hints():
        parser = HfArgumentParser([ARGUMENT_CLASSES[subcommand]])

    def refuse(message: str) -> None:
        raise ParserError(message)

    parser.error = refuse
    return parser


def options(subcommand: str) -> dict[str, dict[str, Any]]:
    """Return the arguments of a subcommand: choices, number of values and default, as text."""
    actions = _parser(subcommand)._option_string_actions
    return {
        field.name: {
            "choices": [str(choice) for choice in actions[f"--{field.name}"].choices or []],
            "nargs": actions[f"--{field.name}"].nargs,
            "default": repr(_default(field)),
        }
        for field in dataclasses.fields(ARGUMENT_CLASSES[subcommand])
        if field.init
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def package_folder() -> str:
    """Return where ms-swift is installed."""
    assert swift.__file__ is not None
    return str(Path(swift.__file__).parent)


def _inexact(subcommand: str, argv: list[str]) -> list[str]:
    """Flags that the parser does not have by this name; argparse accepts a unique prefix."""
    known = _parser(subcommand)._option_string_actions
    flags = (word.split("=", 1)[0] for word in argv if word.startswith("--"))
    return [flag for flag in flags if flag not in known]


def _where(error: BaseException) -> str:
    """Return file:line of the innermost frame, with three folders."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"


def parse(
    subcommand: str, argv: list[str], world_size: int, rank: int = 0, build: bool = False
) -> dict[str, Any]:
    """Return what the stack says to an argument list.

    `ok`; `unknown` flags (abbreviations count); of a refusal the `stage` (parse, post-init, config
    or build), the `error` and `where` it was raised; the `arguments` after post-init that are plain
    values; with `build` the `chunks` of this rank's model, built on the meta device.
    """
    answer: dict[str, Any] = {"ok": False, "unknown": _inexact(subcommand, argv), "stage": "parse"}
    if answer["unknown"]:
        return {**answer, "error": f"unknown flags: {answer['unknown']}", "where": ""}
    fake_world.enter(world_size, rank)
    try:
        arguments = post_init(subcommand, argv, answer)
        if build:
            answer["chunks"] = [_count(model) for model in build_models(arguments, answer)]
    except BaseException as error:  # refusals exit too: their words are the result
        return {**answer, "error": f"{type(error).__name__}: {error}", "where": _where(error)}
    plain = (bool, int, float, str, type(None))
    kept = {name: value for name, value in vars(arguments).items() if isinstance(value, plain)}
    return {**answer, "ok": True, "stage": None, "arguments": kept}


def post_init(subcommand: str, argv: list[str], answer: dict[str, Any]) -> Any:
    """Parse; the parser makes the dataclass, whose post-init is most of ms-swift's checking."""
    parser = _parser(subcommand)
    with contextlib.redirect_stderr(io.StringIO()):
        parser.parse_known_args(argv)
    answer["stage"] = "post-init"
    arguments, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if rest:  # swift/pipelines/base.py, _parse_args
        raise ValueError(f"remaining_argv: {rest}")
    return arguments


def first_step(argv: list[str], world_size: int, rank: int = 0) -> dict[str, str | None]:
    """Return what refuses to train a layout that could be built; for each, None: nothing.

    `schedule` is megatron-core's pipeline schedule up to the first forward pass, `moe_layer` the
    first sparse layer, `cp_inputs` the sequence's split over context-parallel ranks. On the meta
    device a layer that refuses nothing fails where it reads values.
    """
    fake_world.enter(world_size, rank)
    arguments = post_init("megatron sft", argv, {})
    models = build_models(arguments, {})
    sparse = [layer.mlp for layer in models[0].decoder.layers if isinstance(layer.mlp, MoELayer)]
    hidden_states = _hidden_states(arguments, models[0].config)
    return {
        "schedule": raised(lambda: _start_schedule(arguments, models)),
        "moe_layer": raised(lambda: sparse[0](hidden_states)) if sparse else None,
        "cp_inputs": raised(lambda: split_cp_inputs(hidden_states, None, 0)),
    }


def padding(argv: list[str], world_size: int) -> int | None:
    """Return the number of tokens of which ms-swift makes each batch a multiple."""
    fake_world.enter(world_size, 0)
    multiple: int | None = get_padding_to(post_init("megatron sft", argv, {}))
    return multiple


def stream(argv: list[str], world_size: int) -> str | None:
    """Return what refuses to train and evaluate on streams, which have no length."""
    fake_world.enter(world_size, 0)
    arguments = post_init("megatron sft", argv, {})
    val = object() if arguments.val_dataset else None
    return raised(lambda: arguments.init_iters(object(), val))


class _Started(BaseException):
    """No error: the schedule asks for a forward pass."""


def _start_schedule(arguments: Any, models: list[Any]) -> None:
    def forward_step(*_: object) -> None:
        raise _Started

    with contextlib.suppress(_Started):  # the schedule has begun: its checks are over
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=[iter(())] * len(models),
            model=models,
            num_microbatches=arguments.num_microbatches,
            seq_length=arguments.seq_length,
            micro_batch_size=arguments.micro_batch_size,
            forward_only=True,
        )


def _hidden_states(arguments: Any, config: Any) -> torch.Tensor:
    shape = (arguments.seq_length, arguments.micro_batch_size, config.hidden_size)
    return torch.empty(shape, dtype=config.params_dtype, device="meta")


def raised(action: Callable[[], object]) -> str | None:
    try:
        action()
    except Exception as error:  # whatever refuses, its words are the result
        return f"{_where(error)}: {error}"
    return None


def build_models(arguments: Any, answer: dict[str, Any]) -> list[Any]:
    """What the trainer would build on this rank: a model for each chunk."""
    answer["stage"] = "config"
    arguments.init_model_with_meta_device = True
    arguments.use_cpu_initialization = False
    config = get_mcore_model_config(arguments, _hf_config(arguments.model_dir))
    answer["stage"] = "build"
    with no_init_weights():  # of a vision tower: transformers would draw them
        models = get_mcore_model(config)
    return [prepare_mcore_model(arguments, model) for model in models]


def _hf_config(folder: str) -> PreTrainedConfig:
    return AutoConfig.from_pretrained(folder, trust_remote_code=True)  # as ms-swift does


def _count(model: Any) -> dict[str, Any]:
    """The decoder layers of a model chunk by id, and its parameters: routed experts' and all."""
    sizes = dict.fromkeys(("total", "expert", "trainable_total", "trainable_expert"), 0)
    with torch._C.DisableTorchFunction():  # for speed: nothing here asks for a device
        for name, parameter in model.named_parameters():
            for kind in ("total", "expert") if ".experts." in name else ("total",):
                sizes[kind] += parameter.numel()
                sizes[f"trainable_{kind}"] += parameter.numel() * parameter.requires_grad
    language = getattr(model, "language_model", model)
    layers = [layer.layer_number - 1 for layer in language.decoder.layers]
    return {"layers": layers, "mtp": getattr(language, "mtp", None) is not None, **sizes}
