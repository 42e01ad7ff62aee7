"""`moe-launch doctor`: what a run would fail at, found without starting it."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from launch.arguments import Folders, train_args
from launch.backends import make_backend, on_nodes
from launch.dlc import missing_of_job
from launch.dlc_backend import read_job
from launch.jobs import BackendName
from launch.preflight.judge import FAIL, OK, WARN, Row
from launch.resume import is_resumable
from launch.run_folder import render
from planner.errors import PlannerError
from planner.evaluate import Evaluator
from planner.plan import Plan
from planner.planning import check_plan
from planner.problem import Problem, sizes_of
from planner.run import Run
from planner.swift_args import ArgValue, training_args
from planner.topology_files import load_topology

# Seconds that ms-swift's groups wait: shorter than tokenising or saving is an error, longer a hang.
ASSUMED_SHORTEST_TIMEOUT = 600
ASSUMED_LONGEST_TIMEOUT = 4 * 3600
ASSUMED_LONGEST_LOSS_SECONDS = 2 * 3600  # of work between two checkpoints


@dataclass(frozen=True)
class Patient:
    """A run, where its folder is, and what is asked of both."""

    run: Run
    run_folder: Path

    @cached_property
    def args(self) -> dict[str, ArgValue]:
        """The arguments of training."""
        return train_args(self.run)

    @property
    def uses_dlc(self) -> bool:
        """Whether the site says how to run on PAI-DLC."""
        return bool(self.run.site.dlc.workspace_id)


def examine(patient: Patient) -> list[Row]:
    """Every check that the run has, in their order."""
    return [row for check in OFFLINE for row in check(patient)]


def _plan(patient: Patient) -> Iterator[Row]:
    """The verdict of the plan, and of its layout now: somebody may have changed that."""
    plans = [patient.run.plan, *_planned_now(patient.run)]
    broken = next((plan.violations[0] for plan in plans if plan.violations), None)
    verdicts = [plan.verdict for plan in plans]
    if broken:
        yield Row(FAIL, "plan", broken.message, broken.fix)
    elif "exceeds" in verdicts:
        yield _does_not_fit(plans[verdicts.index("exceeds")])
    elif "tight" in verdicts:
        yield _only_just(plans[verdicts.index("tight")])
    else:
        yield Row(OK, "plan", "legal, and it fits")


def _does_not_fit(plan: Plan) -> Row:
    """What a plan exceeds: its hosts, or else its GPUs."""
    if plan.lacks is not None:
        return Row(FAIL, "plan", f"it does not fit: {plan.lacks.message}", "let plan search")
    return Row(FAIL, "plan", "it does not fit the GPUs", "plan for more, or let plan search")


def _only_just(plan: Plan) -> Row:
    """What a plan leaves little of: its hosts' memory, as far as it is known, or its GPUs'."""
    if plan.lacks is not None:
        return Row(WARN, "plan", f"it may not fit: {plan.lacks.message}", "look at a node")
    return Row(WARN, "plan", "it fits, but only just", "a batch with unbalanced experts may not")


def _planned_now(run: Run) -> Iterator[Plan]:
    """The plan of the run's layout, made again; none where its topology is not known here."""
    machines = run.machines
    if run.asked is None:
        return
    try:
        cluster = load_topology(run.asked.topology, machines.num_nodes, machines.gpus_per_node)
    except PlannerError:
        return
    problem = Problem(
        model=run.model,
        cluster=cluster,
        workload=run.asked.workload,
        stack=run.stack,
        recipe=run.recipe,
        settings=run.asked.settings,
    )
    yield check_plan(Evaluator(problem), sizes_of(run.plan.layout))


def _arguments(patient: Patient) -> Iterator[Row]:
    """Whether the plan's arguments are still those that were predicted."""
    run = patient.run
    if run.asked is None:
        return
    now = run.plan.args
    planned = training_args(
        run.model, run.plan.layout, run.asked.workload, run.stack, run.recipe, run.asked.settings
    )
    changed = [
        f"{flag} {_said(planned, flag)} -> {_said(now, flag)}"
        for flag in {**planned, **now}
        if _said(planned, flag) != _said(now, flag)
    ]
    if changed:
        found = f"changed since the plan: {', '.join(changed[:5])}"
        yield Row(WARN, "arguments", found, "plan again with --set: memory and time are the plan's")


def _said(args: Mapping[str, ArgValue], flag: str) -> str:
    return json.dumps(args[flag]) if flag in args else "not given"


def _batch(patient: Patient) -> Iterator[Row]:
    """As ms-swift asks: 4.6.0, megatron/arguments/megatron_args.py:1000-1010."""
    layout = patient.run.plan.layout
    size, parts = layout.global_batch_size, layout.micro_batch_size * layout.dp
    if size % parts:
        found = f"global_batch_size {size} is not a multiple of micro batch x replicas, {parts}"
        near = max(1, round(size / parts)) * parts
        yield Row(FAIL, "batch", found, f"plan with --global-batch-size {near}")
    else:
        yield Row(OK, "batch", f"{size} packs in {size // parts} microbatches of each replica")


def _dispatcher(patient: Patient) -> Iterator[Row]:
    name = patient.args.get("moe_token_dispatcher_type")
    stack = patient.run.stack
    if name is not None and name not in stack.dispatchers:
        found = f"{name} cannot run on {stack.name}, which has {', '.join(stack.dispatchers)}"
        yield Row(FAIL, "dispatcher", found, "plan again with this stack")


def _timeout(patient: Patient) -> Iterator[Row]:
    seconds = patient.args.get("ddp_timeout")
    if not isinstance(seconds, int) or seconds > ASSUMED_LONGEST_TIMEOUT:
        found = f"ddp_timeout is {seconds}: an error becomes a hang that long"
        yield Row(WARN, "timeout", found, "--set ddp_timeout=3600")
    elif seconds < ASSUMED_SHORTEST_TIMEOUT:
        found = f"ddp_timeout is {seconds} s: tokenising or saving may take longer"
        yield Row(WARN, "timeout", found, "--set ddp_timeout=3600")
    else:
        yield Row(OK, "timeout", f"a hang is an error after {seconds} s")


def _resume(patient: Patient) -> Iterator[Row]:
    restarts = patient.run.site.dlc.max_restarts if patient.uses_dlc else 0
    if patient.args.get("add_version"):
        found = "add_version gives every start another folder: nothing is found to go on from"
        yield Row(FAIL, "resume", found, "--set add_version=false")
    elif not is_resumable(patient.run):
        found = "checkpoints leave out the optimizer's states: a start cannot go on from them"
        level = FAIL if restarts else WARN
        yield Row(level, "resume", found, "--set no_save_optim=false, or dlc.max_restarts: 0")
    elif patient.args.get("no_load_optim"):
        found = (
            "after a restart the optimizer's states and the learning rate are those of a first step"
        )
        yield Row(WARN, "resume", found, "--set no_load_optim=false")
    elif patient.args.get("streaming"):
        found = "streaming cannot skip data: after a restart training sees the first packs again"
        yield Row(WARN, "resume", found, "--set streaming=false")
    elif patient.run.plan.resumes in ("no", "maybe"):
        will = "may need" if patient.run.plan.resumes == "maybe" else "needs"
        found = f"by the plan a GPU {will} more memory than it has once a start goes on"
        yield Row(WARN, "resume", found, "--set no_load_optim=true, or a plan that needs less")
    else:
        yield Row(OK, "resume", "a start goes on from the newest complete checkpoint")


def _saving(patient: Patient) -> Iterator[Row]:
    steps, seconds = patient.args.get("save_steps"), patient.run.plan.step_seconds.get("total")
    if isinstance(steps, int) and seconds and steps * seconds > ASSUMED_LONGEST_LOSS_SECONDS:
        hours = steps * seconds / 3600
        found = f"{steps} steps lie between checkpoints, about {hours:.1f} hours: so much is lost"
        better = max(1, int(ASSUMED_LONGEST_LOSS_SECONDS / seconds))
        yield Row(WARN, "saving", found, f"--set save_steps={better}")


def _files(patient: Patient) -> Iterator[Row]:
    """Whether the scripts are those of run.json."""
    files = render(patient.run, patient.run_folder)
    changed = [name for name, text in files.items() if _text(patient.run_folder / name) != text]
    if changed:
        found = f"not as run.json says: {', '.join(changed[:5])}"
        fix = (
            f"moe-launch render {patient.run_folder} writes them again, if that was not on purpose"
        )
        yield Row(WARN, "files", found, fix)
    else:
        yield Row(OK, "files", f"{len(files)}, as run.json says")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _hosts(patient: Patient) -> Iterator[Row]:
    if not patient.run.site.hosts.addresses:
        return
    try:
        make_backend(BackendName.HOSTS, patient.run, patient.run_folder)
    except PlannerError as error:
        yield Row(FAIL, "hosts", error.message, error.fix)


def _job(patient: Patient) -> Iterator[Row]:
    if not patient.uses_dlc:
        return
    missing = missing_of_job(patient.run)
    if missing:
        found = f"the site file lacks {', '.join(missing)}"
        fix = f"moe-launch render {patient.run_folder} --site FILE, with them in the file"
        yield Row(FAIL, "job", found, fix)
        return
    try:
        job = read_job(patient.run_folder / "job.json")
    except PlannerError as error:
        yield Row(FAIL, "job", error.message, error.fix)
        return
    yield Row(OK, "job", f"{job['DisplayName']}: PAI-DLC takes its form and size")


def _mounts(patient: Patient) -> Iterator[Row]:
    """Whether what nodes read and write lies on storage that the job mounts."""
    if not patient.uses_dlc or missing_of_job(patient.run):
        return
    run, site = patient.run, patient.run.site
    output = PurePosixPath(on_nodes(run, patient.run_folder), Folders(site.workspace).output)
    paths = {
        "run folder": on_nodes(run, patient.run_folder),
        "output": str(output),
        "model": site.model_path,
        "data": site.dataset[0].partition("#")[0] if site.dataset else "",
    }
    for name, path in paths.items():
        inside = any(PurePosixPath(path).is_relative_to(mount.mount_path) for mount in site.mounts)
        if path.startswith("/") and not inside:
            fix = "add it to mounts of the site file, or give a path inside one"
            yield Row(FAIL, "mounts", f"{name} {path} is on none of the job's mounts", fix)
            return
    yield Row(OK, "mounts", "scripts, weights, data and checkpoints lie on them")


def _hang(patient: Patient) -> Iterator[Row]:
    dlc, timeout = patient.run.site.dlc, patient.args.get("ddp_timeout")
    if not patient.uses_dlc or dlc.hang_seconds is None or not isinstance(timeout, int):
        return
    if not dlc.max_restarts:
        found = "dlc.hang_seconds does nothing without dlc.max_restarts"
        yield Row(WARN, "hang", found, "dlc.max_restarts: 3 switches PAI's fault tolerance on")


OFFLINE: tuple[Callable[[Patient], Iterator[Row]], ...] = (
    *(_plan, _arguments, _batch, _dispatcher, _timeout, _resume, _saving),
    *(_files, _hosts, _job, _mounts, _hang),
)
