"""README.md of a run folder: what each file does, in which order, and where to look."""

from pathlib import Path

from convert.sizes import conversion_sizes
from launch.arguments import Folders, train_args
from launch.dlc import missing_of_job
from launch.expectations import checkpoint_bytes, saved_state_bytes
from launch.resume import is_resumable
from launch.text import comment, fill
from launch.training import title
from planner.dialects import Dialect, dropped, load_dialect, translate
from planner.layer_shape import BF16
from planner.run import Run
from planner.units import GIB
from planner.workload import Load, TunerType

TEMPLATES = Path(__file__).parent / "templates"

CONVERT_STEP = "| `convert_hf_to_mcore.sh` | once, on {nodes} | weights of the model to `{mcore}` |"
UNNEEDED_STEP = (
    "| `convert_hf_to_mcore.sh` | not needed: `train.sh` reads the weights as they are | weights "
    "of the model to `{mcore}`, for a run with `--load mcore` |"
)
RESUMES = """\
`train.sh`, started again, goes on from the newest complete checkpoint: at most `save_steps` steps
  are lost. To start again from the beginning, move `output` away."""
RESUMES_DOUBTED = """
  By the plan a GPU {may} need more memory than it has from then on: see `moe-launch doctor`."""
RESUMES_NOT = "An interrupted run cannot be resumed: `no_save_optim` leaves out what that needs."


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
        convert_step=(CONVERT_STEP if run.load is Load.MCORE else UNNEEDED_STEP).format(
            nodes=nodes, mcore=comment(folders.mcore)
        ),
        nodes=run.machines.num_nodes,
        conversion_nodes=nodes,
        output=comment(folders.output),
        hf=comment(folders.hf),
        length=_length(run, dialect),
        checkpoint=_checkpoint(run),
        arguments="`train.yaml`" if dialect.arguments_file == "first" else "`train.sh`",
        dropped="".join(
            f"\n- `{flag}` is left out: {why}"
            for flag, why in dropped(train_args(run), dialect).items()
        ),
        resume=_resume(run),
        job=": give " + ", ".join(f"`{key}`" for key in missing) + " first" if missing else "",
    )


def _resume(run: Run) -> str:
    """Whether a run that was interrupted goes on."""
    if not is_resumable(run):
        return RESUMES_NOT
    doubted = {"no": "will", "maybe": "may"}.get(run.plan.resumes or "")
    return RESUMES + (RESUMES_DOUBTED.format(may=doubted) if doubted else "")


def _length(run: Run, dialect: Dialect) -> str:
    """How to train for longer or shorter, in the release's own flags."""
    (epochs,) = translate({"num_train_epochs": run.recipe.num_train_epochs}, dialect)
    (iterations,) = translate({"train_iters": 1}, dialect)
    if run.recipe.train_iters is None:
        wish, now, then = "a short trial", epochs, iterations
    else:
        wish, now, then = "whole epochs", iterations, epochs
    return f"For {wish} replace `{now}` by `{then}`: as long as epochs are given, they win."


def _checkpoint(run: Run) -> str:
    """How large a checkpoint is: weights of all, states of what is trained."""
    args = run.plan.args
    if args["tuner_type"] == TunerType.LORA:
        return "A checkpoint holds the adapters only."
    words = f"{BF16} bytes a parameter"
    if not args["no_save_optim"]:
        words += f", and {saved_state_bytes(run)} of the optimizer for each that is trained"
    size = checkpoint_bytes(run)
    return f"A checkpoint takes about {size / GIB:.0f} GiB: {words}."
