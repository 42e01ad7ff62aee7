"""The arguments of one run: the plan's, with the site's model, data and folders."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from planner.dialects import load_dialect, model_hint, spelled_out
from planner.errors import UsageError
from planner.run import Run
from planner.swift_args import ArgValue, in_order
from planner.workload import Load


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a run keeps things: inside the workspace, or relative to the run folder without one."""

    workspace: str

    def _inside(self, name: str) -> str:
        return str(PurePosixPath(self.workspace) / name)

    @property
    def mcore(self) -> str:
        """The weights in Megatron-Core's format, converted once."""
        return self._inside("mcore")

    @property
    def output(self) -> str:
        """The checkpoints of training."""
        return self._inside("output")

    @property
    def hf(self) -> str:
        """Checkpoints converted back to Hugging Face's format, a folder each."""
        return self._inside("hf")

    @property
    def cache(self) -> str:
        """Downloads and tokenised data."""
        return self._inside("cache")


def model_args(run: Run) -> dict[str, ArgValue]:
    """The model folder, and what ms-swift must be told to recognise it."""
    args: dict[str, ArgValue] = {"model": run.site.model_path}
    hint = model_hint(run.model.model_type, run.site.model_path, run.stack.dialect)
    model_type = run.site.model_type or (hint.model_type if hint else "")
    template = run.site.template or (hint.template if hint else "")
    if model_type:
        args["model_type"] = model_type
    if template:
        args["template"] = template
    return args


def train_args(run: Run) -> dict[str, ArgValue]:
    """All canonical arguments of `megatron sft`."""
    folders = Folders(run.site.workspace)
    args: dict[str, ArgValue] = {
        **run.plan.args,
        **model_args(run),
        "dataset": list(run.site.dataset),
        "output_dir": folders.output,
        "save_safetensors": run.load is Load.DIRECT,
    }
    if run.load is Load.MCORE:
        args["mcore_model"] = folders.mcore
    return in_order(args | spelled_out(args, load_dialect(run.stack.dialect)))


def check_runnable(run: Run) -> None:
    """Checks that scripts can be written: a model folder and data were given, as plain paths.

    Raises UsageError: run.needs, run.bad_path.
    """
    wanted = {"--model-path": run.site.model_path, "--dataset": run.site.dataset}
    missing = [flag for flag, value in wanted.items() if not value]
    if missing:
        raise UsageError("run.needs", flags=" and ".join(missing))
    for flag, paths in (
        ("--model-path", [run.site.model_path]),
        ("--dataset", run.site.dataset),
    ):
        for path in paths:
            if not path or path.startswith("-") or "\0" in path:
                raise UsageError("run.bad_path", flag=flag, path=path)
