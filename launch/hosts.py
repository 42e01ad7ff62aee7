"""The backend of plain hosts: ssh, one node script a host, and files on the shared storage."""

import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from launch.jobs import BackendName, Handle, JobStatus, NodeStatus, State, state_of_all
from launch.text import comment, shell_words
from planner.errors import EnvironmentLacksError, UsageError
from planner.site import Hosts

Answer = TypeVar("Answer")

THIS_MACHINE = ("localhost", "127.0.0.1")
# ssh asks nothing, and gives a host up after 10 s.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
TIMEOUT_SECONDS = 120  # of a command: stopping waits for processes to end
AT_ONCE = 32  # connections


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsBackend:
    """Runs on_host.sh on every host."""

    hosts: Hosts
    run_folder: str  # its path there
    here: Path  # its path on this machine, by which handles name it

    def shown(self) -> str:
        """The commands, one a host."""
        lines = [
            shlex.join([*_transport(address, self.hosts), self._command("start", "ID", node)])
            for node, address in enumerate(self.hosts.addresses)
        ]
        return "\n".join(lines) + "\n"

    def submit(self, submission_id: str) -> Handle:
        """Starts all hosts. Where one does not start, all are stopped again.

        Raises EnvironmentLacksError: hosts.failed.
        """
        try:
            self._on_all(lambda node: self._run(node, self._command("start", submission_id, node)))
        except EnvironmentLacksError:
            self._stop(submission_id)
            raise
        return Handle(BackendName.HOSTS, f"{self.here.absolute()}#{submission_id}")

    def check(self) -> None:
        """Looks at all hosts. Raises EnvironmentLacksError: hosts.failed, hosts.no_run_folder."""
        look = f"test -e {shlex.quote(self._script)} && echo here || echo missing"
        found = self._on_all(lambda node: self._run(node, look))
        for address, answer in zip(self.hosts.addresses, found, strict=True):
            if not answer.endswith("here\n"):  # a login shell may say more before
                raise EnvironmentLacksError(
                    "hosts.no_run_folder", host=address, path=self.run_folder
                )

    def recover(self, submission_id: str) -> Handle | None:
        """None: what a submission that was cut off has started is stopped again."""
        self._stop(submission_id)
        return None

    def status(self, handle: Handle) -> JobStatus:
        """What each host says. Raises UsageError: job.bad_handle."""
        return self._asked("state", _submission_id(handle))

    def stop(self, handle: Handle) -> JobStatus:
        """Ends everything that the job started. Raises UsageError: job.bad_handle."""
        return self._stop(_submission_id(handle))

    def logs(self, handle: Handle, *, node: int, lines: int, follow: bool) -> Iterator[str]:
        """What a node printed. Raises UsageError: job.no_node; EnvironmentLacksError:
        hosts.failed."""
        if node >= len(self.hosts.addresses):
            raise UsageError("job.no_node", node=node, nodes=len(self.hosts.addresses))
        action = "follow" if follow else "log"
        command = f"{self._command(action, _submission_id(handle), node)} {lines}"
        words = [*_transport(self.hosts.addresses[node], self.hosts), command]
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, errors="replace"
        ) as process:
            assert process.stdout is not None
            yield from process.stdout
        if process.returncode:
            host = self.hosts.addresses[node]
            raise EnvironmentLacksError(
                "hosts.failed", host=host, reason="no log can be read there"
            )

    @property
    def _script(self) -> str:
        return str(PurePosixPath(self.run_folder) / "on_host.sh")

    def _command(self, action: str, submission_id: str, node: int) -> str:
        """A call of on_host.sh, as the shell of a host reads it."""
        words = ["bash", self._script, action, submission_id, str(node)]
        if action != "start":
            return shell_words(words)
        master = self.hosts.master_addr or self.hosts.addresses[0].rpartition("@")[2]
        place: dict[str, object] = {
            "NNODES": len(self.hosts.addresses),
            "NODE_RANK": node,
            "MASTER_ADDR": master,
            "MASTER_PORT": self.hosts.master_port,
        }
        if self.hosts.environment_file:
            place["BASH_ENV"] = self.hosts.environment_file
        return shell_words(["env", *(f"{name}={value}" for name, value in place.items()), *words])

    def _stop(self, submission_id: str) -> JobStatus:
        return self._asked("stop", submission_id)

    def _asked(self, action: str, submission_id: str) -> JobStatus:
        """The answers of all hosts; one that cannot be reached is lost, and says why."""

        def ask(node: int) -> NodeStatus:
            name = self.hosts.addresses[node]
            try:
                said = self._run(node, self._command(action, submission_id, node))
            except EnvironmentLacksError as error:
                return NodeStatus(name=name, state=State.LOST, detail=str(error))
            last = said.strip().splitlines()[-1:] or ["waiting"]
            word, _, detail = last[0].partition(" ")
            return NodeStatus(name=name, state=State(word.rstrip(":")), detail=comment(detail))

        nodes = self._on_all(ask)
        return JobStatus(state=state_of_all([node.state for node in nodes]), nodes=tuple(nodes))

    def _on_all(self, ask: Callable[[int], Answer]) -> list[Answer]:
        """What `ask` gives for every node, many at once, in their order."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ask, range(len(self.hosts.addresses))))

    def _run(self, node: int, command: str) -> str:
        """What a command prints on a host. Raises EnvironmentLacksError: hosts.failed."""
        address = self.hosts.addresses[node]
        try:
            ran = subprocess.run(
                [*_transport(address, self.hosts), command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                errors="replace",
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = type(error).__name__
            raise EnvironmentLacksError("hosts.failed", host=address, reason=reason) from None
        if ran.returncode and not ran.stdout:
            said = ran.stderr.strip().splitlines()[-1:] or [f"status {ran.returncode}"]
            reason = comment(said[0])
            raise EnvironmentLacksError("hosts.failed", host=address, reason=reason)
        return ran.stdout


def _transport(address: str, hosts: Hosts) -> Sequence[str]:
    """The words before a command that run it on a machine, through its shell."""
    if address in THIS_MACHINE:
        return ("bash", "-c")
    options = [word for option in hosts.ssh_options for word in ("-o", option)]
    return (*SSH, *options, "--", address)


def _submission_id(handle: Handle) -> str:
    """Raises UsageError: job.bad_handle."""
    _, separator, submission_id = handle.name.rpartition("#")
    if not separator or not submission_id.isalnum():
        raise UsageError("job.bad_handle", handle=str(handle))
    return submission_id
