"""README.md of a run folder: what each file does, in which order, and where to look."""

from pathlib import Path

from convert.sizes import conversion_sizes
from launch.arguments import Folders, train_args
from launch.dlc import missing_of_job
from launch.text import comment, fill
from launch.training import title
from planner.dialects import dropped, load_dialect
from planner.parameters import model_parameters
from planner.run import Load, Run
from planner.units import GIB
from planner.workload import TunerType

TEMPLATES = Path(__file__).parent / "templates"

# bf16 weights; fp32 master weights and two moments of Adam (Rajbhandari 2020, ZeRO, section 3.1)
BYTES_OF_WEIGHT = 2
BYTES_OF_OPTIMIZER_STATE = 12

CONVERT_STEP = (
    "| `convert_hf_to_mcore.sh` | once, on {nodes} | weights of the model to `{mcore}` |\n"
)


def readme(run: Run) -> str:
    """The text of README.md."""
    folders = Folders(run.site.workspace)
    dialect = load_dialect(run.stack.dialect)
    sizes = conversion_sizes(run)
    nodes = "one node" if sizes.num_nodes == 1 else f"{sizes.num_nodes} nodes"
    missing = missing_of_job(run)
    return fill(
        TEMPLATES / "README.md",
        title=title(run),
        stack=comment(f"{run.stack.name} (ms-swift {run.stack.ms_swift})"),
        convert_step=(
            CONVERT_STEP.format(nodes=nodes, mcore=comment(folders.mcore)).rstrip("\n")
            if run.load is Load.MCORE
            else ""
        ),
        nodes=run.machines.num_nodes,
        conversion_nodes=nodes,
        output=comment(folders.output),
        hf=comment(folders.hf),
        checkpoint=_checkpoint(run),
        arguments="`train.yaml`" if dialect.arguments_file == "first" else "`train.sh`",
        dropped="".join(
            f"\n- `{flag}` is left out: {why}"
            for flag, why in dropped(train_args(run), dialect).items()
        ),
        job=": give " + ", ".join(f"`{key}`" for key in missing) + " first" if missing else "",
    )


def _checkpoint(run: Run) -> str:
    """How large a checkpoint is."""
    parameters = sum(model_parameters(run.model).values())
    if run.plan.args["tuner_type"] == TunerType.LORA:
        return "A checkpoint holds the adapters only."
    size = BYTES_OF_WEIGHT + (0 if run.plan.args["no_save_optim"] else BYTES_OF_OPTIMIZER_STATE)
    return f"A checkpoint takes about {parameters * size / GIB:.0f} GiB ({size} bytes a parameter)."
