"""What node 0 makes of the facts: the rows of the table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

GIB = 2**30
ASSUMED_LEAST_SHM_BYTES = GIB  # containers have 64 MiB by default, which NCCL and data loaders pass
ASSUMED_TAKEN_BYTES = 2 * GIB  # of a GPU that nobody else uses: the CUDA context and NCCL
ASSUMED_SLOW = 0.4  # of the plan's link rate, for messages of 64 MiB: worth a look
ASSUMED_BROKEN = 0.1  # the same: another network than the plan's
RDMA = ("InfiniBand", "RoCE", "eRDMA", "EFA")
# Interfaces that lead to containers of the same machine only.
INNER = ("docker", "virbr", "veth", "br-", "cni", "flannel")
OK, WARN, FAIL = "ok", "warn", "FAIL"

Facts = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One check: what was found, and a way out where it is not well."""

    level: str
    name: str
    found: str
    fix: str = ""

    @property
    def failed(self) -> bool:
        """Whether training would fail."""
        return self.level == FAIL

    def text(self) -> str:
        """One line, two with a way out."""
        line = f"{self.level:<5}{self.name:<12}{_printable(self.found)}"
        return f"{line}\n{'':17}-> {_printable(self.fix)}" if self.fix else line


def _printable(text: str) -> str:
    """On one line: names of files and values of variables can hold anything."""
    return "".join(c if c.isprintable() else "?" for c in text)


def judge(
    config: dict[str, Any],
    num_nodes: int,
    processes: int,
    facts: Facts,
    shared: list[dict[str, str]],
    trouble: list[str],
    measured: dict[str, Any],
) -> list[Row]:
    """All rows. `shared` and `trouble` are by node; `measured` is empty where ranks failed."""
    hosts = [f"node {node} ({each['host']})" for node, each in enumerate(facts)]
    rows = [Row(OK, "nodes", ", ".join(each["host"] for each in facts))]
    rows += [
        _same(facts, hosts, "files", "put the run folder on storage that all nodes share"),
        _same(facts, hosts, "versions", "use one image on all nodes"),
        _same(facts, hosts, "variables", "set it on all nodes: env of the site file"),
        _checkpoint(facts, hosts),
        _stack(config, facts),
        _inputs(facts, hosts),
        _shared(hosts, shared),
        _space(config, facts),
        _limits(facts, hosts),
        _network(config, facts, hosts),
        *_gpus(config, num_nodes * processes, hosts, trouble, measured),
    ]
    if measured:
        rows += _rates(config, num_nodes, processes, measured)
    return rows


def _same(facts: Facts, hosts: list[str], what: str, fix: str) -> Row:
    """Whether all nodes have the same, by name."""
    names = sorted({name for each in facts for name in each[what]})
    for name in names:
        values = [each[what].get(name, "not set") for each in facts]
        other = next((node for node, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            here, there = str(values[0])[:40], str(values[other])[:40]
            found = f"{name} differs: {here} on {hosts[0]}, {there} on {hosts[other]}"
            return Row(FAIL, what, found, fix)
    return Row(OK, what, f"the same on all nodes ({len(names)})")


def _checkpoint(facts: Facts, hosts: list[str]) -> Row:
    chosen = [each["checkpoint"] or "none" for each in facts]
    for node, checkpoint in enumerate(chosen):
        if checkpoint != chosen[0]:
            found = f"{hosts[0]} goes on from {chosen[0]}, {hosts[node]} from {checkpoint}"
            return Row(FAIL, "resume", found, "start again when the storage shows all the same")
    return Row(OK, "resume", "from the beginning" if chosen[0] == "none" else f"from {chosen[0]}")


def _stack(config: dict[str, Any], facts: Facts) -> Row:
    """Whether the software is what the plan assumed; it may run all the same."""
    other = [
        f"{name} {facts[0]['versions'].get(name)}, not {version}"
        for name, version in config["stack"].items()
        if facts[0]["versions"].get(name, "").split("+")[0] != version.split("+")[0]
    ]
    if other:
        fix = "plan with --stack FILE of this image (plan stack detect)"
        return Row(WARN, "stack", "the plan is for another: " + "; ".join(other), fix)
    return Row(OK, "stack", "the plan's")


def _inputs(facts: Facts, hosts: list[str]) -> Row:
    for host, each in zip(hosts, facts, strict=True):
        if each["missing"]:
            found = f"{host} does not see {each['missing'][0]}"
            return Row(FAIL, "inputs", found, "mount it, or say its path on the nodes")
    return Row(OK, "inputs", "seen by all nodes")


def _shared(hosts: list[str], shared: list[dict[str, str]]) -> Row:
    for host, trouble in zip(hosts, shared, strict=True):
        for name, reason in trouble.items():
            fix = "give a workspace on storage that all nodes share and may write (site file)"
            return Row(FAIL, "storage", f"{name} of {host} {reason}", fix)
    return Row(OK, "storage", "what a node writes, the others read")


def _space(config: dict[str, Any], facts: Facts) -> Row:
    free = min(each["free_bytes"]["output"] for each in facts)
    needed = 2 * config["checkpoint_bytes"]
    found = f"{free / GIB:.0f} GiB free for checkpoints; two take {needed / GIB:.0f} GiB"
    if free < needed:
        return Row(FAIL, "space", found, "make room, or save elsewhere (workspace of the site)")
    return Row(OK, "space", found)


def _limits(facts: Facts, hosts: list[str]) -> Row:
    for host, each in zip(hosts, facts, strict=True):
        if each["shm_bytes"] < ASSUMED_LEAST_SHM_BYTES:
            found = f"/dev/shm of {host} has {each['shm_bytes'] / GIB:.2f} GiB"
            fix = "docker --shm-size, an emptyDir of medium Memory, or shared_memory of PAI-DLC"
            return Row(FAIL, "limits", found, fix)
        if each["hcas"] and each["memlock_bytes"] is not None:
            found = f"{host} may lock {each['memlock_bytes'] / 2**20:.0f} MiB only"
            fix = "ulimit -l unlimited, or the capability IPC_LOCK: RDMA locks its buffers"
            return Row(WARN, "limits", found, fix)
    return Row(OK, "limits", "/dev/shm and locked memory are enough")


def _network(config: dict[str, Any], facts: Facts, hosts: list[str]) -> Row:
    """Whether node 0 can listen, and what NCCL and gloo would use between machines."""
    port, why = facts[0]["port"]
    if why:
        fix = "end what uses it, or set another MASTER_PORT on all nodes"
        return Row(FAIL, "network", f"MASTER_PORT={port} of {hosts[0]}: {why}", fix)
    if len({each["host"] for each in facts}) == 1:
        return Row(OK, "network", "one machine")
    for host, each in zip(hosts, facts, strict=True):
        if config["network_kind"] in RDMA and not each["hcas"]:
            found = f"{host} shows no active {config['network_kind']} device: NCCL would use TCP"
            fix = "give the container its RDMA devices and libraries (/dev/infiniband)"
            return Row(FAIL, "network", found, fix)
    for host, each in zip(hosts, facts, strict=True):
        wrong = _wrong_interface(each)
        if wrong:
            fix = (
                f"NCCL_SOCKET_IFNAME={each['route']} GLOO_SOCKET_IFNAME={each['route']} "
                "(env of the site file)"
            )
            return Row(WARN, "network", f"{host}: {wrong}", fix)
    devices = ", ".join(facts[0]["hcas"]) or "no RDMA"
    return Row(OK, "network", f"{facts[0]['route'] or '?'}, {devices}")


def _wrong_interface(facts: dict[str, Any]) -> str:
    """Why NCCL or gloo would choose an interface that does not lead to node 0, if they would."""
    route, addresses = facts["route"], facts["interfaces"]
    if not route:
        return ""
    usable = [name for name in addresses if name != "lo" and not name.startswith("docker")]
    first = next((name for name in usable if name.startswith("ib")), usable[0] if usable else "")
    useless = addresses.get(first, "").startswith("169.254.") or first.startswith(INNER)
    if not facts["chosen"]["NCCL_SOCKET_IFNAME"] and first != route and useless:
        return f"NCCL would take {first} ({addresses[first]}), and {route} leads to node 0"
    loopback = facts["own_address"].startswith(("127.", "169.254."))
    if not facts["chosen"]["GLOO_SOCKET_IFNAME"] and loopback and route != "lo":
        return f"gloo would tell the others {facts['own_address']}"
    return ""


def _gpus(
    config: dict[str, Any],
    world_size: int,
    hosts: list[str],
    trouble: list[str],
    measured: dict[str, Any],
) -> Iterator[Row]:
    """Whether every process has a GPU of one model, with the memory of the plan."""
    if not measured:
        bad = [f"{host}: {said}" for host, said in zip(hosts, trouble, strict=True) if said]
        found = bad[0] if bad else "no result"
        fix = "NCCL_DEBUG=INFO says more; as many visible GPUs as NPROC_PER_NODE are needed"
        yield Row(FAIL, "ranks", found, fix)
        return
    gpus = [gpu for gpu in measured["gpus"] if gpu]
    if not gpus:
        yield Row(OK, "gpus", f"none: {world_size} processes on CPU")
        return
    names = sorted({gpu["name"] for gpu in gpus})
    free = min(gpu["free_bytes"] for gpu in gpus)
    taken = max(gpu["total_bytes"] - gpu["free_bytes"] for gpu in gpus)
    found = f"{len(gpus)} x {' and '.join(names)}, at least {free / GIB:.1f} GiB free"
    if len(names) > 1:
        yield Row(FAIL, "gpus", found, "use nodes with the same GPUs")
    elif free + ASSUMED_TAKEN_BYTES < config["device_bytes"]:
        need = config["device_bytes"] / GIB
        yield Row(FAIL, "gpus", f"{found}; the plan takes {need:.1f}", "end what uses them")
    elif taken > ASSUMED_TAKEN_BYTES:
        fix = "look with nvidia-smi: something else uses a GPU"
        yield Row(WARN, "gpus", f"{found}; {taken / GIB:.1f} GiB are taken", fix)
    else:
        yield Row(OK, "gpus", found)


def _rates(
    config: dict[str, Any], num_nodes: int, processes: int, measured: dict[str, Any]
) -> Iterator[Row]:
    """Bytes per second of the collectives, against what the plan's links could give."""
    floors: dict[str, Callable[..., float | None]] = {
        "all-reduce": all_reduce_floor,
        "all-to-all": all_to_all_floor,
    }
    judged = any(measured["gpus"])  # the plan knows nothing of CPUs
    for name, floor in floors.items():
        seconds = measured[f"{name.replace('-', '_')}_seconds"]
        least = floor(config, num_nodes, processes, measured["bytes"]) if judged else None
        rate = measured["bytes"] / seconds / 1e9
        found = f"{measured['bytes'] / 2**20:.0f} MiB a rank in {1000 * seconds:.2f} ms"
        found += f", {rate:.3g} GB/s"
        if least is None:
            yield Row(OK, name, found)
            continue
        share = least / seconds
        found += f": {100 * share:.0f} % of what the plan's links can"
        fix = "NCCL_DEBUG=INFO shows what it uses: NET/IB, or NET/Socket, which is TCP"
        level = FAIL if share < ASSUMED_BROKEN else WARN if share < ASSUMED_SLOW else OK
        yield Row(level, name, found, "" if level == OK else fix)


def all_reduce_floor(
    config: dict[str, Any], num_nodes: int, processes: int, size: int
) -> float | None:
    """Least seconds of a ring over all ranks: 2 (n-1)/n of the bytes over each link of the ring.

    Between nodes the NICs of a node carry it together.
    """
    world_size = num_nodes * processes
    rates = [config["inner_bytes_per_second"]] if processes > 1 else []
    network = config["network_bytes_per_second"]
    if num_nodes > 1:
        rates.append(network and network * processes)
    if not rates or not all(rates):
        return None
    return 2.0 * (world_size - 1) / world_size * size / float(min(rates))


def all_to_all_floor(
    config: dict[str, Any], num_nodes: int, processes: int, size: int
) -> float | None:
    """Least seconds until each rank has sent its share to every other, inside and between nodes."""
    world_size = num_nodes * processes
    outer = size * (world_size - processes) / world_size
    inner = size * (processes - 1) / world_size
    shares = [
        (inner, config["inner_bytes_per_second"]),
        (outer, config["network_bytes_per_second"]),
    ]
    used = [(share, rate) for share, rate in shares if share]
    if not used or not all(rate for _, rate in used):
        return None
    return max(share / float(rate) for share, rate in used)
