"""Sentences about logs of real runs beside their plans."""

from planner.messages.message import Message

MESSAGES: dict[str, Message] = {
    "calibrate.no_steps": Message(
        "{path} tells neither of steps nor of memory that ran out",
        "give ms-swift's logging.jsonl, or what training printed",
    ),
    "calibrate.too_few_steps": Message(
        "{path} has {counted} warm steps that no save is among, and {least} are needed",
        "let the run go on for some more steps",
    ),
    "calibrate.no_run": Message(
        "no run.json is found beside {path} or in the folders above it",
        "name the run folder with --run",
    ),
    "calibrate.runs": Message(
        "{runs} run folders are given for {logs} logs",
        "give one --run for all logs, or one for each, in the same order",
    ),
    "calibrate.not_asked": Message(
        "{path} does not say what its plan was made for: it was written by a planner of before",
        "plan again with --output-dir, and give that folder with --run",
    ),
    "calibrate.other_hosts": Message(
        "the hosts of {topology!r} are not those that {path} was planned for ({gpu}, {planned!r})",
        "give the topology of the plan with --topology, as a path if it was a file",
    ),
    "calibrate.two_topologies": Message(
        "the runs were planned for two topologies, {one!r} and {other!r}",
        "calibrate each with logs of its own",
    ),
    "calibrate.nothing_to_write": Message(
        "no log has enough steps for factors, so nothing can be written to {path}",
        "leave --output out",
    ),
    "calibrate.cold": Message(
        "steps {first} to {last}: kernels are compiled, groups connected, states and memory made"
    ),
    "calibrate.after_save": Message(
        "{number} after the saves of steps {steps}: the log's clock goes on while a checkpoint is "
        "written"
    ),
    "calibrate.untold_data": Message(
        "waiting for data: without Megatron's timer {timer} it is part of the measured step"
    ),
    "calibrate.untold_saving": Message("what a save costs: no step after one is in every log"),
    "calibrate.one_layout": Message(
        "which part is off: logs of one layout say only how long all takes together, and {names} "
        "share the difference by how far each may be off; logs of other layouts tell them apart"
    ),
    "calibrate.at_bound": Message(
        "{name} went to the end of what a factor may be: something else is wrong, in the log or in "
        "the model"
    ),
    "calibrate.few_steps": Message("{log} has {counted} warm steps only; {least} are better"),
    "calibrate.unexplained": Message(
        "{log}: {percent:.1f} % of the step that no factors within bounds explain, such as waiting "
        "for data, a slow node, or an imbalance that was not planned with"
    ),
    "calibrate.predicted_before": Message(
        "{log}: the plan said {planned:.3g} s, of which this planner says {now:.3g} s: the "
        "comparison is with the latter"
    ),
    "calibrate.others": Message(
        "{gib:.1f} GiB of the GPU were held by others than this process, such as one of a run "
        "before: nvidia-smi names them; end them first"
    ),
    "calibrate.load_mcore": Message(
        "load the weights from a checkpoint: convert_hf_to_mcore.sh makes one, once, of a run "
        "folder that is planned with --load mcore"
    ),
    "calibrate.resume_without": Message(
        "go on without the optimizer's states, which loading makes twice, and with the learning "
        "rate from its beginning: --set no_load_optim=true"
    ),
    "calibrate.save_mcore": Message(
        "write no Hugging Face weights beside checkpoints, which joins a layer's experts in one "
        "piece: plan with --load mcore, and convert them afterwards"
    ),
}
