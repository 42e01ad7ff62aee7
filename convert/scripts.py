"""The scripts that convert weights before and after training."""

import math
import shlex
from enum import StrEnum
from pathlib import Path

from convert.sizes import (
    BYTES_PER_PARAMETER,
    ConversionSizes,
    conversion_sizes,
    trained_mtp_layers,
)
from launch.arguments import Folders, model_args
from launch.text import comment, fill, shell_words
from planner.dialects import load_dialect, translate, words
from planner.parameters import model_parameters
from planner.run import Load, Run
from planner.swift_args import ArgValue, pipeline_args
from planner.units import GIB
from planner.workload import TunerType

TEMPLATES = Path(__file__).parent / "templates"

SINGLE_PROCESS_NOTE = """\
# CONVERTER=swift converts in one process on one node instead, in about {gib} GiB of host memory."""
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


class Direction(StrEnum):
    """Which way weights are converted; ms-swift's flag for it."""

    TO_MCORE = "to_mcore"
    TO_HF = "to_hf"


class _Found(str):
    """A value that the script finds out when it runs, as the shell writes it."""


PARTIAL_TARGET = _Found('"$target.partial"')
CHECKPOINT = _Found('"$checkpoint"')


def hf_to_mcore_sh(run: Run) -> str | None:
    """The script that converts the weights for training; None where training reads them."""
    if run.load is Load.DIRECT:
        return None
    return fill(
        TEMPLATES / "convert_hf_to_mcore.sh",
        target=shlex.quote(Folders(run.site.workspace).mcore),
        **_common(run, Direction.TO_MCORE),
    )


def mcore_to_hf_sh(run: Run) -> str:
    """The script that converts a checkpoint of training back, with adapters merged."""
    folders = Folders(run.site.workspace)
    return fill(
        TEMPLATES / "convert_mcore_to_hf.sh",
        output=shlex.quote(folders.output),
        hf=shlex.quote(folders.hf),
        **_common(run, Direction.TO_HF),
    )


def has_single_process(run: Run, direction: Direction) -> bool:
    """Whether `swift export` can convert too: it merges no adapters and knows no MTP layers."""
    merges = direction is Direction.TO_HF and _is_lora(run)
    return not merges and trained_mtp_layers(run) == 0


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
    return args | ({"mtp_num_layers": mtp_num_layers} if mtp_num_layers else {})


def _checkpoint_args(run: Run) -> dict[str, ArgValue]:
    """What is converted back: a whole model, or an adapter with the model that it belongs to."""
    if not _is_lora(run):
        return {"mcore_model": CHECKPOINT}
    adapter: dict[str, ArgValue] = {"mcore_adapter": CHECKPOINT, "merge_lora": True}
    if run.load is Load.DIRECT:
        return adapter
    return {"mcore_model": Folders(run.site.workspace).mcore, **adapter}


def _is_lora(run: Run) -> bool:
    return TunerType(run.plan.args["tuner_type"]) is TunerType.LORA


def _common(run: Run, direction: Direction) -> dict[str, object]:
    """What both templates have in common."""
    sizes = conversion_sizes(run)
    single_process = has_single_process(run, direction)
    alone = _lines(run, direction, single_process=True)
    gib = math.ceil(sum(model_parameters(run.model).values()) * BYTES_PER_PARAMETER / GIB)
    return {
        "name": comment(run.model.name),
        "where": _where(sizes),
        "reason": sizes.reason,
        "world_size": sizes.world_size,
        "gpus_per_node": sizes.gpus_per_node,
        "arguments": _lines(run, direction, single_process=False),
        "single_process_note": SINGLE_PROCESS_NOTE.format(gib=gib) if single_process else "",
        "converter_environment": MEGATRON_OR_SWIFT if single_process else MEGATRON_ONLY,
        "single_process": SINGLE_PROCESS.format(arguments=alone) if single_process else "",
    }


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
