"""Answers requests about the real stack: a JSON object per line, read and written.

A request is {"call": name, "arguments": {...}}, the answer {"result": ...} or {"error": traceback}.
Started by `stack.real_stack`, once per megatron-core version: its imports take ten seconds.
"""

import gc
import json
import logging
import os
import sys
import traceback
import warnings
from typing import Any, TextIO


def _take_stdout() -> TextIO:
    """Return standard output for answers alone; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _load() -> dict[str, Any]:
    """Import the stack; return the functions that can be called."""
    warnings.filterwarnings("ignore")  # those of the stack, not of this project
    import cuda_on_cpu

    cuda_on_cpu.install("meta")
    import megatron.core

    cuda_on_cpu.answer_megatron_core()
    from stack import arguments, fake_world, meaning, optimizers, pipelines

    logging.disable(logging.WARNING)
    gc.freeze()  # else every collection walks through all that was imported
    return {
        "version": lambda: megatron.core.__version__.split("+")[0],
        "meaning": meaning.of_config,
        "model_types": meaning.model_types,
        "rank_groups": fake_world.rank_groups,
        "options": arguments.options,
        "package_folder": arguments.package_folder,
        "parse": arguments.parse,
        "first_step": arguments.first_step,
        "padding": arguments.padding,
        "stream": arguments.stream,
        "optimizer": optimizers.optimizer,
        "expert_gradients": optimizers.expert_gradients,
        "offload_options": optimizers.offload_options,
        "layout_chunks": optimizers.layout_chunks,
        "pass_order": pipelines.pass_order,
    }


def _answer(calls: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": calls[request["call"]](**request["arguments"])}
    except Exception:  # an answer of any kind, so that the other end does not wait
        return {"error": traceback.format_exc()}


def main() -> None:
    """Answer until standard input ends."""
    answers = _take_stdout()
    calls = _load()
    for line in sys.stdin:
        answers.write(json.dumps(_answer(calls, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
