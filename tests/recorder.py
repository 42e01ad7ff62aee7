"""Stand-ins for `megatron` and `swift` that record what they were called with and start nothing."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Optional

import yaml

COMMANDS = ("megatron", "swift")
# Variables of a launcher that tests set; nothing of the machine's own may come in.
LAUNCHER = {
    "NNODES",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NPROC_PER_NODE",
    "WORLD_SIZE",
    "RANK",
    *(f"PET_{name}" for name in ("NNODES", "NODE_RANK", "NPROC_PER_NODE")),
    *(f"PET_{name}" for name in ("MASTER_ADDR", "MASTER_PORT")),
    *(f"SLURM_{name}" for name in ("JOB_ID", "NODEID", "JOB_NUM_NODES", "JOB_NODELIST")),
    *(f"SLURM_STEP_{name}" for name in ("NUM_NODES", "NUM_TASKS", "NODELIST")),
    "DRY_RUN",
    "PREFLIGHT",
    "CONVERTER",
    "ADAPTER",
    "SMOKE",
    "SMOKE_PROMPT",
    "TEST_CONVERT_PRECISION",
    "MODEL_PATH",
    "DATASET",
    "LOAD",
    "PYTORCH_CUDA_ALLOC_CONF",
    "MODELSCOPE_CACHE",
}

_STAND_IN = """\
#!{python}
import json, os, pathlib, sys
record = {{"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}
if "infer" in sys.argv:
    record["input"] = sys.stdin.read()
with open({log!r}, "a") as log:
    print(json.dumps([pathlib.Path(sys.argv[0]).name, record]), file=log)
for flag in ("--output_dir", "--save"):
    if "export" in sys.argv and flag in sys.argv:
        target = pathlib.Path(sys.argv[sys.argv.index(flag) + 1])
        target.mkdir(parents=True)
        (target / "latest_checkpointed_iteration.txt").touch()
        if "--to_hf" in sys.argv:
            (target / "config.json").touch()
sys.exit(int(os.environ.get("STAND_IN_STATUS", "0")))
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a stand-in."""

    command: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    input: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a script printed, how it ended and what it called."""

    status: int
    output: str
    calls: list[Call]


def stand_ins(folder: Path) -> Path:
    """Return a folder for PATH with the stand-ins; they write what they get to its `log`."""
    folder.mkdir(exist_ok=True)
    for name in COMMANDS:
        path = folder / name
        path.write_text(_STAND_IN.format(python=sys.executable, log=str(folder / "log")))
        path.chmod(0o755)
    return folder


def run_script(
    script: Path, *arguments: str, env: Mapping[str, str] | None = None, commands: bool = True
) -> Ran:
    """Runs a script, unchanged, with the stand-ins in the place of ms-swift."""
    folder = stand_ins(script.parent.parent / "stand-ins")
    log = folder / "log"
    log.unlink(missing_ok=True)
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    search = f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin" if commands else "/usr/bin:/bin"
    ran = subprocess.run(
        ["bash", script, *arguments],
        env={**clean, "PATH": search, "PREFLIGHT": "0", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    lines = log.read_text().splitlines() if log.exists() else []
    calls = [Call(name, **record) for name, record in map(json.loads, lines)]
    return Ran(ran.returncode, ran.stdout.decode("utf-8", "replace"), calls)


def words_after_yaml(argv: list[str], folder: Path) -> list[str]:
    """Return the command line that ms-swift 4.6 makes of `FILE.yaml ...`, by its own function."""
    expanded = [str(folder / argv[0]), *argv[1:]]
    _swift_launcher()["parse_yaml_args"](expanded)
    return expanded


def torchrun_args() -> list[str]:
    """Return what ms-swift passes to torch.distributed.run in this environment."""
    words: list[str] = _swift_launcher()["get_torchrun_args"]()
    return words


@cache
def _swift_launcher() -> dict[str, Any]:
    """The functions of the installed ms-swift's launcher, without importing torch with it."""
    spec = importlib.util.find_spec("swift")
    assert spec is not None and spec.origin is not None
    source = (Path(spec.origin).parent / "cli" / "main.py").read_text("utf-8")
    functions: list[ast.stmt] = [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    ]
    module = ast.Module(body=functions, type_ignores=[])
    names: dict[str, Any] = {"yaml": yaml, "json": json, "os": os}
    names |= {"Optional": Optional, "List": list, "Dict": dict, "ROUTE_MAPPING": {}}
    exec(compile(module, "swift/cli/main.py", "exec"), names)
    return names
