"""How train.sh goes on after an interruption: from which checkpoint, and with which flags."""

import json
import shlex

from launch.arguments import Folders, train_args
from launch.text import shell_words
from planner.dialects import argv, load_dialect, translate
from planner.run import Run
from planner.swift_args import ArgValue
from planner.workload import Load, TunerType

LAYOUT = "pipeline_model_parallel_layout"
# What the optimizer's states are laid out by, as long as they are not saved fully reshardable: in
# buckets of each rank's parameters (megatron-core 0.16.1, optimizer/distrib_optimizer.py:1539-1613;
# ms-swift 4.6.0 itself looks at the first two, megatron/utils/megatron_lm_utils.py:531-539).
# With the values that ms-swift 4.6.0 takes for what it is not told.
LAYOUT_ARGS: dict[str, ArgValue | None] = {
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "expert_model_parallel_size": 1,
    "expert_tensor_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": None,
    "decoder_first_pipeline_num_layers": None,
    "decoder_last_pipeline_num_layers": None,
    LAYOUT: None,
}
# What is trained: nothing else can go on from it.
TUNER_ARGS: dict[str, ArgValue | None] = {"tuner_type": "full", "use_distributed_optimizer": True}

RESUME = """\
checkpoint="$(newest {output})"
if [[ -n "$checkpoint" ]]; then
  echo "going on from $checkpoint"
  check_saved "$checkpoint" {tuner}
  [[ "$(saved_as "$checkpoint" dist_ckpt_optim_fully_reshardable)" == true ]] ||
    check_saved "$checkpoint" {layout}
  resume=({flag} "$checkpoint" {finetune})
fi"""
NO_RESUME = """\
echo "this run cannot be resumed: its checkpoints leave out {what} (no_save_optim)"
for checkpoint in {output}/checkpoint-*; do
  [[ ! -e "$checkpoint" ]] ||
    stop 66 "$checkpoint is there, and this run cannot go on from it: move it away to start again"
done"""
NOT_CONVERTED = """\
{unless}[[ -e {tracker} ]] ||
  stop 66 "the weights are not converted yet: run convert_hf_to_mcore.sh first\""""


def is_resumable(run: Run) -> bool:
    """Whether checkpoints hold all that an interrupted run needs to go on."""
    return not train_args(run)["no_save_optim"]


def resume_args(run: Run, checkpoint: str) -> dict[str, ArgValue]:
    """The canonical arguments that resume from a checkpoint, beside the run's own.

    Source: ms-swift 4.6.0, megatron/trainers/base.py:118-128: the iteration, the optimizer and the
    place in the data come from --mcore_model or --mcore_adapter, unless --finetune is true.
    """
    flag = "mcore_adapter" if _is_lora(run) else "mcore_model"
    return {flag: checkpoint, "finetune": False}


def resume_sh(run: Run) -> str:
    """The lines of train.sh that fill `resume` or say that the run cannot be resumed."""
    output = shlex.quote(Folders(run.site.workspace).output)
    if not is_resumable(run):
        return NO_RESUME.format(what="the optimizer's states", output=output)
    flags = translate(resume_args(run, ""), load_dialect(run.stack.dialect))
    flag, _, *finetune = argv(flags)
    return RESUME.format(
        output=output,
        tuner=_expected(run, TUNER_ARGS | ({"lora_rank": None} if _is_lora(run) else {})),
        layout=_expected(run, LAYOUT_ARGS),
        flag=flag,
        finetune=shell_words(finetune),
    )


def weights_check_sh(run: Run) -> str:
    """The lines that look for converted weights; a whole model comes with a checkpoint."""
    if run.load is not Load.MCORE:
        return ""
    tracker = f"{Folders(run.site.workspace).mcore}/latest_checkpointed_iteration.txt"
    needs_base = _is_lora(run) or not is_resumable(run)
    unless = "" if needs_base else "((${#resume[@]})) || "
    return NOT_CONVERTED.format(unless=unless, tracker=shlex.quote(tracker))


def _is_lora(run: Run) -> bool:
    return TunerType(run.plan.args["tuner_type"]) is TunerType.LORA


def _expected(run: Run, defaults: dict[str, ArgValue | None]) -> str:
    """Names of the release with the values that args.json of a checkpoint must have, in JSON."""
    args, dialect = train_args(run), load_dialect(run.stack.dialect)
    words = []
    for canonical, default in defaults.items():
        if canonical == "virtual_pipeline_model_parallel_size" and LAYOUT in args:
            continue  # ms-swift reads it off the layout
        said = {canonical: args[canonical]} if canonical in args else {}
        ((name, value),) = translate(said, dialect).items() or [(canonical, default)]
        words += [name, json.dumps(value)]
    return shell_words(words)
