"""`python -m preflight [CHECKPOINT]`: this node's part of it."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any

from .facts import node_facts, visible_gpus, why_taken
from .judge import Row, judge

FAILED = 68
STEP_SECONDS = 60  # what a node may take from one step to the next
STORE_SECONDS = 20  # until node 0's store answers, whose port is open
SHARED_SECONDS = 20  # until a file must be seen by all nodes: caches of NFS last 3 to 60 s
NOTICE_SECONDS = 30
TOO_FEW = "a node has too few GPUs"


@dataclass(frozen=True)
class Place:
    """Where this process is in the job."""

    num_nodes: int
    node: int
    processes: int  # of a node
    address: str
    port: int

    @classmethod
    def from_environment(cls) -> "Place":
        """What node_env.sh exports."""
        values = os.environ
        port = int(values["MASTER_PORT"])
        return cls(
            num_nodes=int(values["NNODES"]),
            node=int(values["NODE_RANK"]),
            processes=int(values["NPROC_PER_NODE"]),
            address=values["MASTER_ADDR"],
            port=port + 1 if port < 65535 else port - 1,
        )

    @property
    def world_size(self) -> int:
        """Processes of all nodes."""
        return self.num_nodes * self.processes


class StopError(Exception):
    """Nothing more can be found out: the sentence says why, and what to do."""


class Board:
    """What nodes tell each other, as JSON under names."""

    def __init__(self, place: Place, wait_seconds: float) -> None:
        self.place = place
        self.wait_seconds = wait_seconds

    @cached_property
    def store(self) -> Any:
        """torch's store. Raises StopError when node 0 does not answer."""
        try:
            from torch.distributed import (  # type: ignore[attr-defined]  # not in its stubs
                TCPStore,
            )
        except ImportError:
            raise StopError(f"{sys.executable} has no torch: use an image with ms-swift") from None
        place, is_first = self.place, self.place.node == 0
        if not is_first:
            _wait_for_listener(place, self.wait_seconds)
        made: list[Any] = []

        def make() -> None:
            try:
                made.append(
                    TCPStore(
                        place.address,
                        place.port,
                        is_master=is_first,
                        timeout=timedelta(seconds=STEP_SECONDS),
                        wait_for_workers=False,
                    )
                )
            except (RuntimeError, OSError) as error:
                made.append(error)

        # In a thread: torch asks what listens there who it is, and waits for the answer for ever.
        thread = Thread(target=make, daemon=True)
        thread.start()
        thread.join(STORE_SECONDS)
        found = made[0] if made else f"no answer in {STORE_SECONDS} s"
        if isinstance(found, TCPStore):
            return found
        raise StopError(
            f"port {place.port} of {place.address} cannot be used: {str(found).splitlines()[0]}; "
            "end what uses it, or set another MASTER_PORT; MASTER_ADDR must be node 0's"
        )

    def put(self, name: str, value: object) -> None:
        """Tells all."""
        self.store.set(name, json.dumps(value))

    def has(self, name: str) -> bool:
        """Whether something was told under this name."""
        return bool(self.store.check([name]))

    def get(self, name: str, seconds: float = STEP_SECONDS) -> Any:
        """What was told. Raises StopError when nothing was in time."""
        try:
            self.store.wait([name], timedelta(seconds=seconds))
            return json.loads(self.store.get(name))
        except RuntimeError:
            reason = f"no answer in {seconds:.0f} s: {name}; look at the logs of that node"
            raise StopError(reason) from None

    def gather(self, name: str, value: object) -> list[Any]:
        """What every node told under this name, on node 0; elsewhere nothing, but as late.

        Raises StopError when a node did not tell in time.
        """
        self.put(f"{name} of node {self.place.node}", value)
        if self.place.node != 0:
            self.get(f"{name} of all nodes", 2 * STEP_SECONDS)
            return []
        told = [self.get(f"{name} of node {node}") for node in range(self.place.num_nodes)]
        self.put(f"{name} of all nodes", True)
        return told


def _until(happened: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _patiently(seconds: float, waiting_for: Callable[[], str]) -> Iterator[None]:
    """Goes on for some time, and says on the way what is waited for."""
    start = noticed = time.monotonic()
    while time.monotonic() - start < seconds:
        yield
        time.sleep(0.2)
        if time.monotonic() - noticed > NOTICE_SECONDS:
            noticed = time.monotonic()
            print(f"preflight: waiting for {waiting_for()}", file=sys.stderr, flush=True)


def _wait_for_listener(place: Place, seconds: float) -> None:
    """Waits for node 0. Raises StopError: whether its name or its port is the trouble."""
    trouble = ""

    def waiting_for() -> str:
        return f"node 0: {trouble}"

    for _ in _patiently(seconds, waiting_for):
        try:
            socket.create_connection((place.address, place.port), timeout=5).close()
            return
        except socket.gaierror:
            trouble = f"the name {place.address} is not known here"
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            trouble = f"{place.address} port {place.port}: {reason}"
    raise StopError(
        f"node 0 was not reached in {seconds:.0f} s: {trouble}; "
        "look whether it runs, and whether MASTER_ADDR is its address as this node sees it"
    )


def facts_of_all(board: Board) -> list[dict[str, Any]]:
    """The facts of all nodes, on node 0. Raises StopError with the nodes that did not come."""
    names = {node: f"facts of node {node}" for node in range(board.place.num_nodes)}
    absent = list(names)
    for _ in _patiently(board.wait_seconds, lambda: f"nodes {absent}"):
        absent[:] = [node for node in absent if not board.has(names[node])]
        if not absent:
            return [board.get(name) for name in names.values()]
    raise StopError(
        f"of {len(names)} nodes these did not come in {board.wait_seconds:.0f} s: "
        f"{', '.join(map(str, absent))}; "
        "look at their logs: was the script started there, with its own NODE_RANK?"
    )


def look_at_storage(board: Board, nonce: str, folders: dict[str, str]) -> list[dict[str, str]]:
    """By node, then folder, why it is not one that all nodes share; on node 0."""
    place = board.place
    trouble: dict[str, str] = {}
    own = {name: Path(path) / f".preflight-{nonce}-{place.node}" for name, path in folders.items()}
    for name, path in own.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(nonce)
        except OSError as error:
            trouble[name] = f"cannot be written: {(error.strerror or str(error)).lower()}"
    board.gather("files", True)
    others = range(place.num_nodes) if place.node == 0 else range(1)
    wanted = {
        (name, node): path.with_name(f".preflight-{nonce}-{node}")
        for name, path in own.items()
        for node in others
        if name not in trouble
    }
    _until(lambda: all(_holds(path, nonce) for path in wanted.values()), SHARED_SECONDS)
    for (name, node), path in wanted.items():
        if not _holds(path, nonce):
            trouble.setdefault(name, f"does not show what node {node} wrote there")
    told = board.gather("storage", trouble)
    for path in own.values():
        with suppress(OSError):  # what stays behind is a small file, no reason to fail
            path.unlink(missing_ok=True)
    return told


def _holds(path: Path, text: str) -> bool:
    """Whether a file is seen with this text. A look into its folder makes NFS ask again."""
    try:
        os.listdir(path.parent)
        return path.read_text() == text
    except OSError:
        return False


def run_ranks(board: Board) -> str:
    """Measures with a process a GPU; the last line of what went wrong on this node, or nothing.

    Where a node has too few GPUs, none starts: all others would wait for it.
    """
    place = board.place
    if board.has(TOO_FEW):
        too_few: dict[str, Any] = board.get(TOO_FEW)
        return str(too_few["why"]) if too_few["node"] == place.node else ""
    module = f"{__package__}.ranks"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(place.node * place.processes + local), str(local)],
            env={**os.environ, "PREFLIGHT_STORE": f"{place.address}:{place.port}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for local in range(place.processes)
    ]
    deadline = time.monotonic() + STEP_SECONDS
    trouble = ""
    for process in processes:
        try:
            _, said = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            said = f"no answer in {STEP_SECONDS} s"
        if process.returncode and not trouble:
            trouble = (said.strip().splitlines() or [f"status {process.returncode}"])[-1]
    return trouble


def look(board: Board, config: dict[str, Any], checkpoint: str) -> list[Row]:
    """All that is found out, on node 0 as the rows of the table; on others nothing."""
    place = board.place
    own = node_facts(config, place.address, checkpoint)
    if place.node == 0:  # where torchrun will listen; at the port after it this process does
        own["port"] = [os.environ["MASTER_PORT"], why_taken(int(os.environ["MASTER_PORT"]))]
    board.put(f"facts of node {place.node}", own)
    gpus = visible_gpus()
    if gpus is not None and gpus < place.processes:
        why = f"{gpus} GPUs are visible, NPROC_PER_NODE={place.processes} are needed"
        board.put(TOO_FEW, {"node": place.node, "why": why})
    facts = facts_of_all(board) if place.node == 0 else []
    if place.node == 0:
        board.put("nonce", secrets.token_hex(8))
    storage = look_at_storage(board, board.get("nonce", board.wait_seconds), config["folders"])
    trouble = board.gather("ranks", run_ranks(board))
    if place.node != 0:
        return []
    measured = board.get("measured") if board.has("measured") else {}
    return judge(config, place.num_nodes, place.processes, facts, storage, trouble, measured)


def _wait_seconds() -> float:
    """What PREFLIGHT_WAIT says. Raises StopError when it is no number."""
    text = os.environ.get("PREFLIGHT_WAIT") or "600"
    if not text.isdecimal():
        raise StopError(f"PREFLIGHT_WAIT={text} must be a whole number of seconds")
    return float(text)


def _config() -> dict[str, Any]:
    """What the run expects. Raises StopError when that cannot be read."""
    try:
        found: dict[str, Any] = json.loads(Path("preflight.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StopError(
            f"preflight.json cannot be read here: {error}; moe-launch render writes it again"
        ) from None
    return found


def main() -> int:
    """The status."""
    place = Place.from_environment()
    start = time.monotonic()
    try:
        board = Board(place, _wait_seconds())
        rows = look(board, _config(), sys.argv[1] if len(sys.argv) > 1 else "")
        if place.node == 0:
            title = f"{place.num_nodes} nodes x {place.processes} processes"
            print(f"preflight  {title}, {time.monotonic() - start:.0f} s")
            print("\n".join(row.text() for row in rows), flush=True)
            board.put("verdict", FAILED if any(row.failed for row in rows) else 0)
        status = int(board.get("verdict", 3 * STEP_SECONDS))
        if place.node == 0:  # whose store the others still read
            for node in range(1, place.num_nodes):
                board.get(f"end of node {node}")
        else:
            board.put(f"end of node {place.node}", True)
    except StopError as stop:
        print(f"preflight: {stop}", file=sys.stderr)
        status = FAILED
    if status and place.node != 0:
        print("preflight: training would fail: node 0 has the table", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
