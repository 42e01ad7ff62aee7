"""The scripts that convert weights before and after training."""

import math
import shlex
from pathlib import Path

from convert.direction import (
    CARRY,
    Direction,
    carries_mtp,
    has_single_process,
    is_lora,
)
from convert.sizes import (
    ConversionSizes,
    conversion_sizes,
    trained_mtp_layers,
)
from convert.ways import Kind, precision_of, way_of
from launch.arguments import Folders, model_args
from launch.text import comment, fill, shell_words
from planner.dialects import Flags, argv, load_dialect, model_hint, translate, words
from planner.run import Run
from planner.swift_args import ArgValue, pipeline_args
from planner.units import GIB
from planner.workload import Load

TEMPLATES = Path(__file__).parent / "templates"

SINGLE_PROCESS_NOTE = """\
# CONVERTER=swift converts in one process: {host} GiB of host memory, {gpu} GiB of a GPU."""
MEGATRON_OR_SWIFT = """\
case "${CONVERTER:-megatron}" in
megatron) ;;
swift)
  unset NODE_RANK NPROC_PER_NODE MASTER_ADDR
  export NNODES=1
  gpus=1 gpus_per_node=1
  ;;
*)
  echo "${0##*/}: CONVERTER=$CONVERTER must be megatron or swift" >&2
  exit 64
  ;;
esac"""
MEGATRON_ONLY = """\
if [[ "${CONVERTER:-megatron}" != megatron ]]; then
  echo "${0##*/}: CONVERTER=$CONVERTER must be megatron: swift export cannot convert this one" >&2
  exit 64
fi"""
SINGLE_PROCESS = """\
if [[ "${{CONVERTER:-megatron}}" == swift ]]; then
  command=(swift export
{arguments}
  )
fi"""

ADAPTER_NOTE = """\
# ADAPTER=1 writes the adapter alone, in PEFT's format, instead of merging it into the model."""
ADAPTER_TARGET = '[[ "${ADAPTER:-0}" == 0 ]] || target="$target-adapter"'
ADAPTER_ARGUMENTS = '[[ "${ADAPTER:-0}" == 0 ]] || { command+=(--merge_lora false) && gib=1; }'
SMOKE_TOKENS = 32
BEFORE_TRAINING = "once, before train.sh."
NOT_FOR_TRAINING = (
    "for a run that is planned with\n# --load mcore: train.sh of this one reads them as they are."
)
PRECISION: dict[str, ArgValue] = {"test_convert_precision": True, "test_convert_dtype": "float32"}


class _Found(str):
    """A value that the script finds out when it runs, as the shell writes it."""


PARTIAL_TARGET = _Found('"$target.partial"')
CHECKPOINT = _Found('"$checkpoint"')


def hf_to_mcore_sh(run: Run) -> str:
    """The script that converts the weights, for training or, where that reads those of Hugging
    Face itself, for another run."""
    return fill(
        TEMPLATES / "convert_hf_to_mcore.sh",
        target=shlex.quote(Folders(run.site.workspace).mcore),
        when=BEFORE_TRAINING if run.load is Load.MCORE else NOT_FOR_TRAINING,
        **_common(run, Direction.TO_MCORE),
    )


def mcore_to_hf_sh(run: Run) -> str:
    """The script that converts a checkpoint of training back, with adapters merged."""
    folders = Folders(run.site.workspace)
    has_adapter = is_lora(run)
    return fill(
        TEMPLATES / "convert_mcore_to_hf.sh",
        model=shlex.quote(run.site.model_path),
        output=shlex.quote(folders.output),
        hf=shlex.quote(folders.hf),
        adapter_note=ADAPTER_NOTE if has_adapter else "",
        adapter_target=ADAPTER_TARGET if has_adapter else "",
        adapter_arguments=ADAPTER_ARGUMENTS if has_adapter else "",
        smoke=shell_words(argv(smoke_args(run))),
        **_common(run, Direction.TO_HF),
    )


def smoke_args(run: Run) -> Flags:
    """The arguments of `swift infer` for a converted model, whose folder has no name that ms-swift
    knows."""
    hint = model_hint(run.model.model_type, "checkpoint", run.stack.dialect)
    named = model_args(run)
    args: Flags = {"max_new_tokens": SMOKE_TOKENS}
    for flag, hinted in (
        ("model_type", hint.model_type if hint else ""),
        ("template", hint.template if hint else ""),
    ):
        if value := named.get(flag, hinted):
            args[flag] = value
    return args


def conversion_args(run: Run, direction: Direction, *, single_process: bool) -> dict[str, ArgValue]:
    """The canonical arguments of `megatron export`, or of `swift export` in a single process."""
    args: dict[str, ArgValue] = {
        **model_args(run),
        direction.value: True,
        **(_checkpoint_args(run) if direction is Direction.TO_HF else {}),
        "output_dir": PARTIAL_TARGET,
        "exist_ok": True,  # what an interrupted conversion left is written over
        "torch_dtype": "bfloat16",
    }
    if single_process:
        return args
    mtp_num_layers = trained_mtp_layers(run)
    split = pipeline_args(conversion_sizes(run).split, mtp_num_layers)
    args |= {"tensor_model_parallel_size": 1, **split, "check_model": False}
    if direction is Direction.TO_HF and carries_mtp(run):
        args[CARRY] = True
    return args | ({"mtp_num_layers": mtp_num_layers} if mtp_num_layers else {})


def _checkpoint_args(run: Run) -> dict[str, ArgValue]:
    """What is converted back: a whole model, or an adapter with the model that it belongs to."""
    if not is_lora(run):
        return {"mcore_model": CHECKPOINT}
    adapter: dict[str, ArgValue] = {"mcore_adapter": CHECKPOINT, "merge_lora": True}
    if run.load is Load.DIRECT:
        return adapter
    return {"mcore_model": Folders(run.site.workspace).mcore, **adapter}


def _common(run: Run, direction: Direction) -> dict[str, object]:
    """What both templates have in common."""
    sizes = conversion_sizes(run)
    single_process = has_single_process(run, direction)
    alone = _lines(run, direction, single_process=True)
    return {
        "name": comment(run.model.name),
        "where": _where(sizes),
        "reason": sizes.reason,
        "world_size": sizes.world_size,
        "gpus_per_node": sizes.gpus_per_node,
        "arguments": _lines(run, direction, single_process=False),
        "single_process_note": _single_process_note(run, direction) if single_process else "",
        "converter_environment": MEGATRON_OR_SWIFT if single_process else MEGATRON_ONLY,
        "precision": shell_words(argv(PRECISION)),
        "precision_cost": _precision_cost(run),
        "disk_gib": math.ceil(way_of(run, Kind.MEGATRON, direction).disk_bytes / GIB),
        "single_process": SINGLE_PROCESS.format(arguments=alone) if single_process else "",
    }


def _single_process_note(run: Run, direction: Direction) -> str:
    way = way_of(run, Kind.SWIFT, direction)
    return SINGLE_PROCESS_NOTE.format(
        host=math.ceil(way.host_total / GIB), gpu=math.ceil(way.gpu_total / GIB)
    )


def _precision_cost(run: Run) -> str:
    """What comparing logits takes: transformers loads the model once more, over the first node's
    GPUs (4.6.0, swift/megatron/pipelines/export/export.py: device_map auto on the first rank)."""
    more = precision_of(run)
    gpu, host = (math.ceil(size / GIB) for size in (more.gpu_bytes, more.host_bytes))
    cost = f"{gpu} GiB on the GPUs of the first node, then {host} GiB on its host"
    return cost + (f"\n# and {more.needs}" if more.needs else "")


def _where(sizes: ConversionSizes) -> str:
    gpus = f"{sizes.gpus_per_node} GPU" + ("s" if sizes.gpus_per_node > 1 else "")
    if sizes.num_nodes == 1:
        return f"one node with {gpus}"
    return f"{sizes.num_nodes} nodes with {gpus} each"


def _lines(run: Run, direction: Direction, *, single_process: bool) -> str:
    """A flag a line, for a bash array."""
    args = conversion_args(run, direction, single_process=single_process)
    flags = translate(args, load_dialect(run.stack.dialect), single_process=single_process)
    indent = "    " if single_process else "  "
    return "\n".join(
        f"{indent}--{flag} {value if isinstance(value, _Found) else shell_words(words(value))}"
        for flag, value in flags.items()
    )
