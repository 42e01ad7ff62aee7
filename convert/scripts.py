"""The scripts that convert weights before and after training."""

import math
import shlex
from pathlib import Path

from convert.sizes import (
    BYTES_PER_PARAMETER,
    ConversionSizes,
    conversion_sizes,
    trained_mtp_layers,
)
from launch.arguments import Folders, model_args
from launch.text import comment, fill, shell_words
from planner.dialects import Dialect, load_dialect, translate, words
from planner.parameters import model_parameters
from planner.run import Load, Run
from planner.swift_args import ArgValue, pipeline_args
from planner.units import GIB
from planner.workload import TunerType

TEMPLATES = Path(__file__).parent / "templates"

SINGLE_PROCESS_NOTE = """\
# CONVERTER=swift converts in one process on one node instead, in about {gib} GiB of host memory."""
SINGLE_PROCESS_ENVIRONMENT = """\
if [[ "${CONVERTER:-megatron}" == swift ]]; then
  unset NNODES NODE_RANK WORLD_SIZE RANK NPROC_PER_NODE MASTER_ADDR
  gpus=1 gpus_per_node=1
fi"""
SINGLE_PROCESS = """\
if [[ "${{CONVERTER:-megatron}}" == swift ]]; then
  command=(swift export
{arguments}
  )
fi"""


# Values that a script finds out when it runs, as the shell writes them.
PARTIAL_TARGET = '"$target.partial"'
CHECKPOINT = '"$checkpoint"'


def hf_to_mcore_sh(run: Run) -> str | None:
    """The script that converts the weights for training; None where training reads them."""
    if run.load is Load.DIRECT:
        return None
    return fill(
        TEMPLATES / "convert_hf_to_mcore.sh",
        target=shlex.quote(Folders(run.site.workspace).mcore),
        **_common(run, {"to_mcore": True}, {}, single_process=trained_mtp_layers(run) == 0),
    )


def mcore_to_hf_sh(run: Run) -> str:
    """The script that converts a checkpoint of training back, with adapters merged."""
    folders = Folders(run.site.workspace)
    lora = run.plan.args["tuner_type"] == TunerType.LORA
    args: dict[str, ArgValue] = {"to_hf": True}
    if lora:
        args["merge_lora"] = True
        if run.load is Load.MCORE:
            args["mcore_model"] = folders.mcore
    found = {"mcore_adapter" if lora else "mcore_model": CHECKPOINT}
    return fill(
        TEMPLATES / "convert_mcore_to_hf.sh",
        output=shlex.quote(folders.output),
        hf=shlex.quote(folders.hf),
        **_common(run, args, found, single_process=not lora and trained_mtp_layers(run) == 0),
    )


def _common(
    run: Run, args: dict[str, ArgValue], found: dict[str, str], *, single_process: bool
) -> dict[str, object]:
    """What both templates have in common. `found` are flags with values of the shell."""
    dialect = load_dialect(run.stack.dialect)
    sizes = conversion_sizes(run)
    args = {**model_args(run), **args, "torch_dtype": "bfloat16", "exist_ok": True}
    found = {**found, "output_dir": PARTIAL_TARGET}
    of_megatron = {**args, **_parallel_args(run, sizes), "check_model": False}
    alone = _lines(args, found, dialect, single_process=True)
    gib = math.ceil(sum(model_parameters(run.model).values()) * BYTES_PER_PARAMETER / GIB)
    return {
        "name": comment(run.model.name),
        "where": _where(sizes),
        "reason": sizes.reason,
        "world_size": sizes.world_size,
        "gpus_per_node": sizes.gpus_per_node,
        "arguments": _lines(of_megatron, found, dialect, single_process=False),
        "single_process_note": SINGLE_PROCESS_NOTE.format(gib=gib) if single_process else "",
        "single_process_environment": SINGLE_PROCESS_ENVIRONMENT if single_process else "",
        "single_process": SINGLE_PROCESS.format(arguments=alone) if single_process else "",
    }


def _parallel_args(run: Run, sizes: ConversionSizes) -> dict[str, ArgValue]:
    mtp_num_layers = trained_mtp_layers(run)
    mtp: dict[str, ArgValue] = {"mtp_num_layers": mtp_num_layers} if mtp_num_layers else {}
    split = pipeline_args(sizes.split, mtp_num_layers)
    return {"tensor_model_parallel_size": 1, **split, **mtp}


def _where(sizes: ConversionSizes) -> str:
    gpus = f"{sizes.gpus_per_node} GPU" + ("s" if sizes.gpus_per_node > 1 else "")
    if sizes.num_nodes == 1:
        return f"one node with {gpus}"
    return f"{sizes.num_nodes} nodes with {gpus} each"


def _lines(
    args: dict[str, ArgValue], found: dict[str, str], dialect: Dialect, *, single_process: bool
) -> str:
    """A flag a line, for a bash array."""
    flags = translate(args, dialect, single_process=single_process)
    names = translate(dict.fromkeys(found, ""), dialect, single_process=single_process)
    lines = [f"--{flag} {shell_words(words(value))}" for flag, value in flags.items()]
    lines += [f"--{flag} {value}" for flag, value in zip(names, found.values(), strict=True)]
    indent = "    " if single_process else "  "
    return "\n".join(indent + line for line in lines)
