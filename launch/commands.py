"""What `moe-launch submit`, `status`, `logs`, `stop` and `doctor` do."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import typer

from launch.backends import backend_of_handles, make_backend
from launch.jobs import (
    Backend,
    BackendName,
    Handle,
    JobStatus,
    State,
    UnknownJobError,
    parse_handle,
)
from launch.submission import (
    Submission,
    forget_submission,
    new_id,
    read_submission,
    submitting,
    write_submission,
)
from launch.text import comment
from planner.command import quoted, write_output
from planner.errors import UsageError
from planner.report.json_ import as_json as json_text
from planner.run import FORMAT_VERSION, Run, read_run


def submit(
    run: Run,
    run_folder: Path,
    backend_name: BackendName | None,
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Shows what will be sent, asks, sends it, and prints the handle.

    Raises UsageError: submit.*, job.still_there, those of the backend.
    """
    name, run = _target(run, run_folder, backend_name)
    backend = make_backend(name, run, run_folder)
    if dry_run:
        content = {"backend": name, "request": backend.shown()}
        write_output(_json(content) if as_json else backend.shown())
        return
    with submitting(run_folder):
        previous = read_submission(run_folder)
        _refuse_second(run_folder, run, previous)
        if not yes:
            _ask(name, backend, as_json)
        handle = _recovered(run_folder, run, previous)
        if handle is None:
            hosts = run.site.hosts.addresses if name is BackendName.HOSTS else ()
            handle = _start(run_folder, backend, Submission(backend=name, id=new_id(), hosts=hosts))
    if as_json:
        write_output(_json({"handle": str(handle)}))
    else:
        write_output(f"{handle}\n\nmoe-launch status {quoted(str(run_folder))}\n")


def _start(run_folder: Path, backend: Backend, submission: Submission) -> Handle:
    """Starts a job; what is sure not to have become one is forgotten.

    Raises UsageError: submit.unrecorded, those of the backend.
    """
    backend.check()
    previous = read_submission(run_folder)
    write_submission(run_folder, submission)
    try:
        handle = backend.submit(submission.id)
    except UsageError:  # it was refused
        forget_submission(run_folder, previous)
        raise
    write_submission(run_folder, replace(submission, handle=str(handle)))
    return handle


def status(job: str, *, as_json: bool) -> None:
    """Says how far a job is. Raises UsageError: job.*, those of the backend."""
    found = _find(job)
    _show(found.handle, found.backend.status(found.handle), as_json)


def stop(job: str, *, as_json: bool) -> None:
    """Ends a job. Raises UsageError: job.*, those of the backend."""
    found = _find(job)
    status = found.backend.stop(found.handle)
    if found.run_folder and found.submission:
        write_submission(found.run_folder, replace(found.submission, stopped=True))
    _show(found.handle, status, as_json)


def logs(job: str, *, node: int, lines: int, follow: bool, as_json: bool) -> None:
    """Prints what a node printed; as JSON, when all of it is known.

    Raises UsageError: job.*, those of the backend.
    """
    found = _find(job)
    pieces = found.backend.logs(found.handle, node=node, lines=lines, follow=follow)
    if as_json:
        said = [piece.rstrip("\n") for piece in pieces]
        write_output(_json({"handle": str(found.handle), "node": node, "lines": said}))
        return
    for piece in pieces:
        write_output(piece)


def doctor(run_folder: Path, hosts: Sequence[str], *, online: bool, as_json: bool) -> None:
    """Prints what was looked at; status 2 where something would fail.

    Without `hosts` they are those of the last submission. Raises UsageError: those of `read_run`,
    `read_submission` and `render`; typer.Exit.
    """
    from launch.doctor import Patient, examine
    from launch.doctor_online import examine_online

    last = read_submission(run_folder)
    run = with_hosts(read_run(run_folder), hosts or (last.hosts if last else ()))
    patient = Patient(run, run_folder)
    rows = examine(patient) + (examine_online(patient) if online else [])
    if as_json:
        write_output(_json({"checks": [asdict(row) for row in rows]}))
    else:
        write_output("".join(f"{row.text()}\n" for row in rows))
    if any(row.failed for row in rows):
        raise typer.Exit(UsageError.exit_status)


def with_hosts(run: Run, hosts: Sequence[str]) -> Run:
    """The run on hosts of the command line, in the place of the site's.

    Raises UsageError: file.bad_value.
    """
    if not hosts:
        return run
    from planner.site import checked_hosts

    addresses = checked_hosts(hosts)
    return replace(run, site=replace(run.site, hosts=replace(run.site.hosts, addresses=addresses)))


@dataclass(frozen=True, slots=True)
class _Job:
    handle: Handle
    backend: Backend
    run_folder: Path | None = None  # and its submission; of a handle alone neither is known
    submission: Submission | None = None


def _find(job: str) -> _Job:
    """The job of a handle, or the last one of a run folder.

    Raises UsageError: job.bad_handle, job.not_submitted, job.cut_off, those of `read_run`.
    """
    if "://" not in job:
        return _last_of(Path(job))
    handle = parse_handle(job)
    if handle.backend is BackendName.HOSTS:
        last = _last_of(Path(handle.name.rpartition("#")[0]))
        return last if last.handle == handle else _Job(handle, last.backend)  # an earlier one
    return _Job(handle, backend_of_handles(handle.backend))


def _last_of(run_folder: Path) -> _Job:
    run = read_run(run_folder)
    submission = read_submission(run_folder)
    if submission is None:
        raise UsageError("job.not_submitted", path=run_folder)
    if submission.handle is None:
        raise UsageError("job.cut_off", path=run_folder)
    backend = _backend_of(submission, run, run_folder)
    return _Job(parse_handle(submission.handle), backend, run_folder, submission)


def _backend_of(submission: Submission, run: Run, run_folder: Path) -> Backend:
    return make_backend(submission.backend, with_hosts(run, submission.hosts), run_folder)


def _target(
    run: Run, run_folder: Path, backend_name: BackendName | None
) -> tuple[BackendName, Run]:
    """Where a run goes: what is given, what the site says, or where it went the last time.

    Raises UsageError: submit.no_backend, submit.two_backends, those of `read_submission`.
    """
    told = {
        BackendName.HOSTS: bool(run.site.hosts.addresses),
        BackendName.DLC: bool(run.site.dlc.workspace_id),
    }
    possible = [backend_name] if backend_name else [name for name, given in told.items() if given]
    if len(possible) > 1:
        raise UsageError("submit.two_backends", path=run_folder)
    last = None if possible and told[possible[0]] else read_submission(run_folder)
    if last is not None and possible in ([], [last.backend]):
        return last.backend, with_hosts(run, last.hosts)
    if not possible:
        raise UsageError("submit.no_backend", path=run_folder)
    return possible[0], run


def _refuse_second(run_folder: Path, run: Run, previous: Submission | None) -> None:
    """Two jobs would write the same checkpoints; but what was stopped and does not answer, is gone.

    Raises UsageError: job.still_there.
    """
    if previous is None or previous.handle is None:
        return
    handle = parse_handle(previous.handle)
    try:
        found = _backend_of(previous, run, run_folder).status(handle)
    except UnknownJobError:
        return
    is_gone = previous.stopped and found.state is State.LOST
    if not found.state.is_final and not is_gone:
        raise UsageError("job.still_there", path=run_folder, handle=handle, state=found.state.value)


def _recovered(run_folder: Path, run: Run, previous: Submission | None) -> Handle | None:
    """The job of a submission that was cut off, which the run folder then remembers; else None."""
    if previous is None or previous.handle is not None:
        return None
    handle = _backend_of(previous, run, run_folder).recover(previous.id)
    if handle is not None:
        write_submission(run_folder, replace(previous, handle=str(handle)))
    return handle


def _ask(name: BackendName, backend: Backend, as_json: bool) -> None:
    """Shows what will be sent, and asks. Raises UsageError: submit.unasked; typer.Abort: no."""
    if as_json or not sys.stdin.isatty():
        raise UsageError("submit.unasked")
    write_output(backend.shown())
    typer.confirm(f"Submit this to {name}?", abort=True, err=True)


def _show(handle: Handle, status: JobStatus, as_json: bool) -> None:
    if as_json:
        write_output(_json({"handle": str(handle), **asdict(status)}))
        return
    width = max((len(node.name) for node in status.nodes), default=0)
    lines = [f"{handle} {_words(status.state, status.detail)}"]
    lines += [
        f"  {number:<3} {node.name:<{width}} {_words(node.state, node.detail)}"
        for number, node in enumerate(status.nodes)
    ]
    lines += [f"  {comment(event)}" for event in status.events]
    write_output("\n".join(lines) + "\n")


def _words(state: str, detail: str) -> str:
    return f"{state}: {comment(detail)}" if detail else str(state)


def _json(content: dict[str, Any]) -> str:
    return json_text({"format_version": FORMAT_VERSION, **content})
