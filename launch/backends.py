"""Which backend runs a job. Another is a client like these, and a renderer if it has a file."""

from collections import Counter
from pathlib import Path

from launch.dlc_backend import DlcBackend
from launch.hosts import THIS_MACHINE, HostsBackend
from launch.jobs import Backend, BackendName
from planner.errors import UsageError
from planner.run import Run
from planner.site import Dlc


def make_backend(name: BackendName, run: Run, run_folder: Path) -> Backend:
    """The backend of a run. Raises UsageError: hosts.count, hosts.twice, hosts.local_master."""
    if name is BackendName.DLC:
        return DlcBackend(dlc=run.site.dlc, job_file=run_folder / "job.json")
    return _hosts(run, run_folder)


def backend_of_handles(name: BackendName) -> Backend:
    """A backend whose handles say all that it needs to know of a job."""
    assert name is BackendName.DLC
    return DlcBackend(dlc=Dlc(), job_file=None)


def on_nodes(run: Run, run_folder: Path) -> str:
    """The path of the run folder as the nodes see it."""
    return run.site.run_folder or str(run_folder.absolute())


def _hosts(run: Run, run_folder: Path) -> HostsBackend:
    addresses = run.site.hosts.addresses
    wanted = run.machines.num_nodes
    if len(addresses) != wanted:
        raise UsageError(
            "hosts.count", wanted=wanted, given=len(addresses), hosts=", ".join(addresses) or "none"
        )
    twice = [host for host, times in Counter(addresses).items() if times > 1]
    if twice and twice[0] not in THIS_MACHINE:  # which tests take for two
        raise UsageError("hosts.twice", host=twice[0])
    away = [host for host in addresses if host not in THIS_MACHINE]
    if addresses[0] in THIS_MACHINE and away and not run.site.hosts.master_addr:
        raise UsageError("hosts.local_master", host=away[0], master=addresses[0])
    return HostsBackend(hosts=run.site.hosts, run_folder=on_nodes(run, run_folder), here=run_folder)
