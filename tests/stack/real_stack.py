"""A process that holds the real stack under one megatron-core version, and what tests ask it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
STAND_INS = (HERE / "te_stub", HERE / "cpu_site")

# megatron-core version: where it lies; None: installed beside ms-swift
MEGATRON_CORES: dict[str, Path | None] = {
    "0.16.1": None,
    "0.18.1": REPOSITORY / ".stacks" / "megatron-core-0.18",
}

Flags = Mapping[str, object]
Answer = TypeVar("Answer")


def python_path(megatron_core: str, *more: Path) -> str:
    """Return the PYTHONPATH under which Python finds the stack with this megatron-core."""
    folder = MEGATRON_CORES[megatron_core]
    folders = ([] if folder is None else [folder]) + [*STAND_INS, *more]
    return os.pathsep.join(str(folder) for folder in folders)


def as_argv(flags: Flags) -> list[str]:
    """Return flags as ms-swift reads them: booleans in lower case, each value of a list a word."""
    argv = []
    for name, value in flags.items():
        values = value if isinstance(value, list | tuple) else [value]
        argv += [f"--{name}", *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
    return argv


def ask_all(
    stacks: Mapping[str, "RealStack"], question: Callable[["RealStack"], Answer]
) -> dict[str, Answer]:
    """Return the answers of all stacks to a question, by megatron-core version, asked at once."""
    with ThreadPoolExecutor(len(stacks)) as pool:
        pending = {version: pool.submit(question, stack) for version, stack in stacks.items()}
    return {version: answer.result() for version, answer in pending.items()}


class StackError(Exception):
    """A request that the worker could not answer, with the worker's traceback."""


class RealStack:
    """One worker. `scratch` is where arguments that need an output folder may create it."""

    def __init__(self, megatron_core: str) -> None:
        self.megatron_core = megatron_core
        folder = MEGATRON_CORES[megatron_core]
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: run `make stacks`")
        self._scratch = tempfile.TemporaryDirectory(prefix="stack-")
        self.scratch = Path(self._scratch.name)
        self._log = (self.scratch / "worker.log").open("w+")
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        offline["HF_MODULES_CACHE"] = str(self.scratch / "modules")  # of models' own code
        paths = python_path(megatron_core, HERE.parent)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stack.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=self.scratch,
            env={**os.environ, **offline, "PYTHONPATH": paths},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()
        self._log.close()
        self._scratch.cleanup()

    def call(self, name: str, **arguments: Any) -> Any:
        """Return the worker's result. Raises StackError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise StackError(answer["error"])
        return answer["result"]

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-4000:]

    def rank_groups(
        self, world_size: int, ranks: Iterable[int] | None = None, **sizes: int
    ) -> dict[str, list[tuple[int, ...]]]:
        """Return per kind of group the groups of `ranks` (default: all), from parallel_state."""
        asked = None if ranks is None else list(ranks)
        groups = self.call("rank_groups", world_size=world_size, ranks=asked, **sizes)
        return {name: [tuple(group) for group in rows] for name, rows in groups.items()}

    def training_argv(self, model: Path, flags: Flags) -> list[str]:
        """Return the arguments of `megatron sft` for flags that name no model, data or output."""
        needed = {
            "model": model,
            "dataset": "none.jsonl",
            "output_dir": self.scratch / "output",
            "add_version": False,
            "check_model": False,
        }
        return as_argv({**needed, **flags})

    def train(
        self, model: Path, world_size: int, flags: Flags, *, rank: int = 0, build: bool = True
    ) -> dict[str, Any]:
        """Return what `megatron sft` says to a layout: see `stack.arguments.parse`."""
        argv = self.training_argv(model, flags)
        return self.parse("megatron sft", argv, world_size, rank=rank, build=build)

    def first_step(self, model: Path, world_size: int, flags: Flags) -> dict[str, str | None]:
        """Return what refuses to train a layout: see `stack.arguments.first_step`."""
        argv = self.training_argv(model, flags)
        refusals: dict[str, str | None] = self.call("first_step", argv=argv, world_size=world_size)
        return refusals

    def padding(self, model: Path, world_size: int, flags: Flags) -> int | None:
        """Return the number of tokens of which ms-swift makes each batch a multiple."""
        argv = self.training_argv(model, flags)
        multiple: int | None = self.call("padding", argv=argv, world_size=world_size)
        return multiple

    def stream(self, model: Path, world_size: int, flags: Flags) -> str | None:
        """Return what refuses to train on streams: see `stack.arguments.stream`."""
        argv = self.training_argv(model, flags)
        refused: str | None = self.call("stream", argv=argv, world_size=world_size)
        return refused

    def optimizer(self, model: Path, world_size: int, flags: Flags) -> dict[str, Any]:
        """Return the buffers of a rank's optimizer: see `stack.optimizers.optimizer`."""
        argv = self.training_argv(model, flags)
        made: dict[str, Any] = self.call("optimizer", argv=argv, world_size=world_size)
        return made

    def expert_gradients(
        self, model: Path, world_size: int, flags: Flags, *, rank: int = 0
    ) -> dict[str, Any]:
        """Return where gradients of experts are reduced: see `stack.optimizers`."""
        argv = self.training_argv(model, flags)
        found: dict[str, Any] = self.call(
            "expert_gradients", argv=argv, world_size=world_size, rank=rank
        )
        return found

    def parse(
        self,
        subcommand: str,
        argv: list[str],
        world_size: int,
        *,
        rank: int = 0,
        build: bool = False,
    ) -> dict[str, Any]:
        """Return what a subcommand says to an argument list: see `stack.arguments.parse`."""
        result: dict[str, Any] = self.call(
            "parse", subcommand=subcommand, argv=argv, world_size=world_size, rank=rank, build=build
        )
        return result

    def refusal(self, model: Path, world_size: int, flags: Flags, *, rank: int = 0) -> str | None:
        """Return who refuses to build this layout and with which words; None: nobody."""
        answer = self.train(model, world_size, flags, rank=rank)
        return None if answer["ok"] else f"{answer['stage']} {answer['where']}: {answer['error']}"

    def build(
        self, model: Path, world_size: int, flags: Flags, rank: int
    ) -> tuple[dict[str, Any], ...]:
        """Return the model chunks that a rank builds: see `stack.arguments`. Raises StackError."""
        answer = self.train(model, world_size, flags, rank=rank)
        if not answer["ok"]:
            raise StackError(f"{answer['stage']} {answer['where']}: {answer['error']}")
        return tuple(answer["chunks"])
