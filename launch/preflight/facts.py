"""What is found on one node, without asking any other."""

import fcntl
import hashlib
import importlib.metadata
import os
import resource
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface
PACKAGES = (
    *("ms-swift", "mcore-bridge", "megatron-core", "transformer-engine", "torch"),
    *("nvidia-nccl-cu12", "nvidia-nccl-cu13", "deep-ep", "flash-attn"),
)
# Variables that change how training runs, and that nodes must have in common.
PREFIXES = ("NCCL_", "NVTE_", "NVSHMEM_", "TORCH_NCCL_", "PYTORCH_")
OF_ONE_NODE = ("NCCL_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_HOSTID")
DRIVER = Path("/proc/driver/nvidia/version")


def node_facts(config: dict[str, Any], address: str, checkpoint: str) -> dict[str, Any]:
    """All facts; `address` is node 0's, `checkpoint` the one that training would go on from."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return {
        "host": socket.gethostname(),
        "files": {name: _digest(Path(name)) for name in config["files"]},
        "versions": {name: _version(name) for name in PACKAGES} | {"driver": _driver()},
        "checkpoint": checkpoint,
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(PREFIXES) and name not in OF_ONE_NODE
        },
        "missing": [path for path in config["inputs"] if not Path(path).exists()],
        "shm_bytes": _disk("/dev/shm").total,
        "free_bytes": {name: _disk(path).free for name, path in config["folders"].items()},
        "memlock_bytes": None if soft == resource.RLIM_INFINITY else soft,
        "interfaces": interfaces(),
        "route": _interface_to(address),
        "own_address": _own_address(),
        "chosen": {
            name: os.environ.get(name, "") for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
        },
        "hcas": active_hcas(),
    }


def visible_gpus() -> int | None:
    """How many torch sees; None where CPUs take their place."""
    if os.environ.get("PREFLIGHT_DEVICE", "cuda") != "cuda":
        return None
    import torch

    return torch.cuda.device_count()


def why_taken(port: int) -> str:
    """Why nothing can listen at a port of this machine; empty where it can."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        return os.strerror(error.errno).lower() if error.errno else str(error)
    return ""


def interfaces() -> dict[str, str]:
    """The IPv4 addresses of network interfaces, in the kernel's order, in which NCCL takes them."""
    found = {}
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                wish = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, wish)
            except OSError:  # it has no address
                continue
        found[name] = socket.inet_ntoa(answer[20:24])
    return found


def active_hcas() -> list[str]:
    """Names of RDMA devices with an active port."""
    ports = Path("/sys/class/infiniband").glob("*/ports/*/state")
    return sorted({path.parts[-4] for path in ports if "ACTIVE" in path.read_text()})


def _interface_to(address: str) -> str:
    """The interface that leads to a machine; empty where that is not known."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return ""
    return next((name for name, each in interfaces().items() if each == own), "")


def _own_address() -> str:
    """What this machine's name means here, which gloo tells the others."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return ""


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    try:
        return DRIVER.read_text().splitlines()[0]
    except OSError:
        return "none"


def _disk(path: str) -> Any:
    """Total and free bytes of the storage that a path is, or will be, on."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place)
