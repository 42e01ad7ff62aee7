"""What a run expects of its nodes, for the preflight: preflight.json, a checkpoint's size."""

import json
from pathlib import Path

from launch.arguments import Folders
from planner.layer_shape import BF16
from planner.parameters import model_parameters
from planner.precision import state_bytes
from planner.run import Run
from planner.settings import Settings
from planner.workload import TunerType

PREFLIGHT = Path(__file__).parent / "preflight"
# Files that decide what a node does.
SAME_EVERYWHERE = ("run.json", "train.sh", "train.yaml", "node_env.sh", "preflight.json")


def preflight_files(run: Run) -> dict[str, str]:
    """The package that train.sh runs, word for word, and what it reads."""
    sources = {f"preflight/{path.name}": path.read_text("utf-8") for path in _sources()}
    return {**sources, "preflight.json": json.dumps(expectations(run), indent=2) + "\n"}


def _sources() -> list[Path]:
    return sorted(PREFLIGHT.glob("*.py"))


def expectations(run: Run) -> dict[str, object]:
    """What the nodes must have, in bytes and bytes per second; null where the run does not say."""
    folders = Folders(run.site.workspace)
    stack, machines = run.stack, run.machines
    inputs = [run.site.model_path, *(path.partition("#")[0] for path in run.site.dataset)]
    return {
        "files": list(SAME_EVERYWHERE),
        "folders": {"output": folders.output, "cache": folders.cache},
        "inputs": [path for path in inputs if path.startswith("/")],  # others may be hub ids
        "checkpoint_bytes": checkpoint_bytes(run),
        "device_bytes": max(
            (int(stage.memory_bytes.get("device_used", 0)) for stage in run.plan.stages), default=0
        ),
        "stack": {
            "ms-swift": stack.ms_swift,
            "megatron-core": stack.megatron_core,
            "torch": stack.torch,
        },
        "network_kind": machines.network_kind,
        "inner_bytes_per_second": machines.inner_bytes_per_second,
        "network_bytes_per_second": machines.network_bytes_per_second,
    }


def checkpoint_bytes(run: Run) -> int:
    """Bytes of one checkpoint: weights of all and states of what is trained; 0 for adapters, which
    are small."""
    args = run.plan.args
    if args["tuner_type"] == TunerType.LORA:
        return 0
    parts = model_parameters(run.model, mtp_num_layers=args.get("mtp_num_layers", 0))
    parameters = sum(parts.values())
    if args["no_save_optim"]:
        return BF16 * parameters
    return BF16 * parameters + saved_state_bytes(run) * (parameters - parts.get("vision", 0))


def saved_state_bytes(run: Run) -> int:
    """Bytes of the optimizer for a parameter that is trained; a vision tower is frozen."""
    return state_bytes(Settings(optimizer=run.recipe.optimizer)).saved
