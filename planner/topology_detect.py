"""Reads what a node says of itself: nvidia-smi, `nvidia-smi topo -m`, ibdev2netdev, NCCL's XML.

Each parser takes the text of one command and raises UsageError (detect.unreadable) when the text is
not that. Nothing is run here: `measure.node` does.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from planner.errors import UsageError

TOPO, SMI, IBDEV, NCCL = "nvidia-smi topo -m", "nvidia-smi", "ibdev2netdev", "NCCL_TOPO_DUMP_FILE"
MOST_GPUS = 64  # of a host; more is no such output
MOST_DEVICES = 256  # with the NICs
MOST_NVLINKS = 64  # of a GPU
MOST_PCIE_GBYTES = 1000.0
MOST_CPUS = 4096
NEAR = ("PIX", "PXB", "PHB")  # a GPU and a NIC below one host bridge
_COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_DEVICE = re.compile(r"(GPU|NIC)\d{1,3}|[a-z]\w*_\w+")
_CELL = re.compile(r"X|SYS|NODE|PHB|PXB|PIX|NV\d{1,2}|N/A")
_CPU_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_NAME = re.compile(r"(?:NVIDIA|Tesla|A100|A800|H100|H200|H800|H20|L20|L40S)[\w .+-]{0,60}")
_MIB = re.compile(r"(\d{1,7}) ?MiB")


@dataclass(frozen=True, slots=True)
class Source:
    """A text, the command that prints it and the file that it was read from."""

    command: str
    text: str
    path: Path | None = None

    def refuse(self, reason: str) -> UsageError:
        """The error that says why the text is not what it should be."""
        where = self.path or f"the output of {self.command}"
        return UsageError("detect.unreadable", path=where, command=self.command, reason=reason)


@dataclass(frozen=True, slots=True)
class Matrix:
    """`nvidia-smi topo -m`: how each GPU reaches each device."""

    gpus: list[str]
    nics: list[str]
    cells: dict[tuple[str, str], str]
    names: dict[str, str]  # of NICs, where a legend gives them
    cpus: int  # threads that the GPUs have an affinity to; 0: not printed

    def near_nics(self) -> list[str]:
        """NICs that share a PCIe switch or host bridge with a GPU: those that carry training."""
        return [
            self.names.get(nic, nic)
            for nic in self.nics
            if any(self.cells[gpu, nic] in NEAR for gpu in self.gpus)
        ]

    def all_nics(self) -> list[str]:
        """All NICs, by their device names where a legend gives them."""
        return [self.names.get(nic, nic) for nic in self.nics]


def parse_matrix(source: Source) -> Matrix:
    """The matrix of GPUs and NICs."""
    lines = [_COLORS.sub("", line).split() for line in source.text.splitlines()]
    start = next((n for n, words in enumerate(lines) if words[:1] == ["GPU0"]), None)
    if start is None:
        raise source.refuse("no line begins with GPU0")
    columns = []
    for word in lines[start]:
        if not _DEVICE.fullmatch(word):
            break
        columns.append(word)
    gpus = [name for name in columns if name.startswith("GPU")]
    many = len(gpus) > MOST_GPUS or len(columns) > MOST_DEVICES
    if many or len(set(columns)) < len(columns):
        raise source.refuse(f"its heading names {len(columns)} devices, some twice or too many")
    rows = {words[0]: words[1:] for words in lines[start + 1 :] if words}
    cells, cpus = {}, set[int]()
    for gpu in gpus:
        row = rows.get(gpu, [])
        if len(row) < len(columns) or not all(map(_CELL.fullmatch, row[: len(columns)])):
            raise source.refuse(f"the row of {gpu} is missing or cut short")
        cells.update({(gpu, name): cell for name, cell in zip(columns, row, strict=False)})
        cpus.update(_cpu_list(row[len(columns)] if len(row) > len(columns) else ""))
    names = {
        words[0].rstrip(":"): words[1]
        for words in lines
        if len(words) == 2 and words[0].startswith("NIC") and words[0].endswith(":")
    }
    nics = [name for name in columns if name not in gpus]
    return Matrix(gpus, nics, cells, names, min(len(cpus), MOST_CPUS))


def _cpu_list(text: str) -> Iterator[int]:
    """The numbers of a list such as 0-55,112-167."""
    for part in text.split(","):
        found = _CPU_RANGE.fullmatch(part)
        if found:
            first = int(found[1])
            yield from range(first, min(int(found[2] or first), first + MOST_CPUS) + 1)


@dataclass(frozen=True, slots=True)
class Smi:
    """nvidia-smi, with -L, -q or without: names of GPUs and MiB of memory, as far as printed."""

    names: list[str]
    memory_mib: list[int]


def parse_smi(source: Source) -> Smi:
    """Names and memory of the GPUs."""
    names, memory = [], []
    for line in source.text.splitlines():
        line = _COLORS.sub("", line)
        if "MIG" in line and "Device" in line:
            continue
        name = _smi_name(line)
        if name:
            names.append(name)
        # The table has used and total memory on a line of its own, -q has them in paragraphs.
        if ("/" in line and len(_MIB.findall(line)) == 2) or re.match(r"\s*\d+,.*MiB", line):
            memory.append(max(map(int, _MIB.findall(line))))
    memory += [
        int(size)
        for size in re.findall(r"FB Memory Usage\s+Total\s*:\s*(\d{1,7}) MiB", source.text)
    ]
    if not names or len(names) > MOST_GPUS:
        raise source.refuse("no line names a GPU" if not names else "it names too many GPUs")
    return Smi(names, memory)


_SMI_LINES = (
    re.compile(r"GPU \d+: (?P<name>[^(]{1,80})\(UUID"),  # -L
    re.compile(r"\s*Product Name\s*: (?P<name>.{1,80})"),  # -q
    re.compile(r"\|\s+\d+\s+(?P<name>\S.{0,60}?)\s+(?:On|Off)\s+\|"),  # the table
    re.compile(r"\s*\d+, (?P<name>[^,]{1,80}), "),  # --format=csv with an index first
)


def _smi_name(line: str) -> str:
    for pattern in _SMI_LINES:
        found = pattern.match(line)
        if found and _NAME.fullmatch(found["name"].strip()):
            return found["name"].strip()
    return ""


# With -v the PCI address comes first, and the card and its firmware stand in between.
_IBDEV_LINE = re.compile(
    r"(?:[0-9a-f]{4}:[0-9a-f:.]{7,10} )?(\S{1,40}) (?:\(.{1,160} )?port \d+ (?:\(\w{1,20} ?\) )?"
    r"==> (\S{1,40}) \((\w{1,20})\)"
)


@dataclass(frozen=True, slots=True)
class Port:
    """A line of ibdev2netdev."""

    device: str
    netdev: str
    up: bool


def parse_ibdev(source: Source) -> list[Port]:
    """The ports of RDMA devices and the network devices that they are."""
    found = [_IBDEV_LINE.match(" ".join(line.split())) for line in source.text.splitlines()]
    ports = [Port(each[1], each[2], each[3] == "Up") for each in found if each]
    if not ports or len(ports) > MOST_DEVICES:
        raise source.refuse("no line is like mlx5_0 port 1 ==> ib0 (Up)")
    return ports


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclTopology:
    """NCCL's view of a node."""

    gpus: int
    sm: int  # for example 90
    device_id: str  # PCI device of the first GPU, for example 0x2330; empty: not given
    pcie_gbytes_per_second: float  # of the first GPU; 0: not given
    nvlinks: int  # of the GPU with the fewest
    joined: list[set[int]] = field(default_factory=list)  # GPUs that NVLink joins to each
    nics: dict[str, float] = field(default_factory=dict)  # Gbit/s by device name


def parse_nccl(source: Source) -> NcclTopology:
    """NCCL's dump, also where GPUs or NICs are left out of it."""
    if "<!" in source.text.replace("<!--", ""):
        raise source.refuse("it holds a document type, which NCCL does not write")
    try:
        root = ElementTree.fromstring(source.text)
    except (ElementTree.ParseError, ValueError) as error:
        raise source.refuse(f"it is not whole XML ({error})") from None
    parents = {child: parent for parent in root.iter() for child in parent}
    gpus = list(root.iter("gpu"))
    if not gpus or len(gpus) > MOST_GPUS:
        raise source.refuse("it names no GPU" if not gpus else "it names too many GPUs")
    cards = [parents[gpu] for gpu in gpus]
    if any(card.get("vendor", "0x10de") != "0x10de" for card in cards) or gpus[0].get("gcn"):
        raise source.refuse("its GPUs are not NVIDIA's")
    links = [_links(gpu) for gpu in gpus]
    nvlinks = min(sum(counts.values()) for counts in links)
    nics = {
        net.get("name", ""): _digits(net.get("speed")) / 1000
        for net in root.iter("net")
        if net.get("name")
    }
    if nvlinks > MOST_NVLINKS or len(nics) > MOST_DEVICES:
        raise source.refuse(f"it has {nvlinks} NVLinks of a GPU and {len(nics)} NICs")
    places = {card.get("busid", ""): index for index, card in enumerate(cards)}
    return NcclTopology(
        gpus=len(gpus),
        sm=_digits(gpus[0].get("sm")),
        device_id=cards[0].get("device", ""),
        pcie_gbytes_per_second=_pcie(cards[0]),
        nvlinks=nvlinks,
        joined=[_joined(counts, places) for counts in links],
        nics=nics,
    )


def _links(gpu: ElementTree.Element) -> dict[str, int]:
    """NVLinks of a GPU by what is at their other end; switches are one end."""
    counts: dict[str, int] = {}
    for link in gpu.iter("nvlink"):
        switch = link.get("tclass", "").startswith("0x0680")
        end = "switch" if switch else link.get("target", "")
        counts[end] = counts.get(end, 0) + _digits(link.get("count"))
    return counts


def _joined(counts: dict[str, int], places: dict[str, int]) -> set[int]:
    if "switch" in counts:
        return set(places.values())
    return {places[end] for end in counts if end in places}


def _pcie(card: ElementTree.Element) -> float:
    """GB/s of one direction; a GT/s is a bit on every lane, and 2 % of coding are left out."""
    speed = re.match(r"\d{1,3}(\.\d{1,3})?", card.get("link_speed", ""))
    found = float(speed[0]) * _digits(card.get("link_width")) / 8 if speed else 0.0
    return found if found <= MOST_PCIE_GBYTES else 0.0


def _digits(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 8 else 0


def equal_domains(num_gpus: int, joined: list[set[int]]) -> int:
    """The largest equal groups of neighbouring GPUs that NVLink joins, each with each; 1: none."""
    for size in range(num_gpus, 1, -1):
        groups = [range(first, first + size) for first in range(0, num_gpus, size)]
        if num_gpus % size == 0 and all(
            set(group) - {one} <= joined[one] for group in groups for one in group
        ):
            return size
    return 1


def joined_by_matrix(matrix: Matrix) -> list[set[int]]:
    """Which GPUs NVLink joins to each."""
    return [
        {n for n, other in enumerate(matrix.gpus) if matrix.cells[gpu, other].startswith("NV")}
        for gpu in matrix.gpus
    ]


def links_by_matrix(matrix: Matrix) -> int:
    """NVLinks of a GPU towards another: with a switch all that it has. 0: none."""
    cells = [cell for (_, other), cell in matrix.cells.items() if other in matrix.gpus]
    return min((int(cell[2:]) for cell in cells if cell.startswith("NV")), default=0)
