"""A draft of a topology file from what a node says of itself; what it does not say is assumed."""

import json
from dataclasses import dataclass, field

from planner.errors import UsageError
from planner.topology_detect import (
    IBDEV,
    NCCL,
    SMI,
    TOPO,
    Matrix,
    NcclTopology,
    Port,
    Smi,
    Source,
    equal_domains,
    joined_by_matrix,
    links_by_matrix,
    parse_ibdev,
    parse_matrix,
    parse_nccl,
    parse_smi,
)
from planner.topology_schema import GpuFile, known_gpus

_NOT_SAID = "not in the inputs"
_HOP = "NVIDIA/nccl src/graph/tuning.cc @5067397, ring with the Simple protocol, one hop"
_RACKS = {"GB200": 72, "GB300": 72}  # GPUs of an NVL72 domain, of which a tray shows 4
_MARGIN_MIB = 730  # torch's total below nvidia-smi's, the most seen: data/gpus.yaml
_ASSUMED_HOST_GIB_A_GPU = 256
_ASSUMED_CPUS_A_GPU = 14

# capability's first number: family of fractions, and GB/s of a link and direction (A100: 12 links
# are 300 GB/s, H100: 18 are 450, B200: 18 are 900; data sheets)
_NVLINK = {8: ("nvlink-ampere", 25.0), 9: ("nvlink-hopper", 25.0), 10: ("nvlink-blackwell", 50.0)}
_NVLINK_OF_CARDS = 14.0  # RTX 3090: 4 links are 56 GB/s, commonly quoted


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is taken for a kind of network where the inputs do not say it."""

    efficiency: str
    latency_microseconds: float
    latency_source: str
    gbits: float
    assumed: bool = True


_KINDS = {
    "InfiniBand": _Kind("infiniband", 14.0, f"{_HOP} between nodes", 400, assumed=False),
    "RoCE": _Kind("roce", 14.0, f"{_HOP} between nodes", 400, assumed=False),
    "EFA": _Kind("efa", 30.0, "jfc4050/dlcalc dlcalc/utils/hardware.py @cda3963", 100),
    "eRDMA": _Kind("erdma", 50.0, "nobody publishes it", 80),
    "Ethernet": _Kind("tcp", 50.0, "nobody publishes it", 25),
}
# beginnings of device names that tell the kind of network
_DEVICES = {"erdma": "eRDMA", "rdmap": "EFA", "efa": "EFA", "mlx5_bond": "RoCE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the operating system says where the draft is made on the node itself."""

    memory_gib: float | None = None
    cpus: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """The text of a topology file, and what to fill in: keys and why."""

    text: str
    to_fill: list[tuple[str, str]]


def draft(sources: list[Source], host: Host | None = None) -> Draft:
    """A topology file from the outputs of commands.

    Raises UsageError: detect.unreadable, detect.no_gpus.
    """
    texts = {source.command: source for source in sources}
    node = _Node(
        matrix=parse_matrix(texts[TOPO]) if TOPO in texts else None,
        smi=parse_smi(texts[SMI]) if SMI in texts else None,
        ports=parse_ibdev(texts[IBDEV]) if IBDEV in texts else [],
        nccl=parse_nccl(texts[NCCL]) if NCCL in texts else None,
        host=host or Host(),
    )
    if not node.gpus:
        raise UsageError("detect.no_gpus")
    return _Writer(node, list(texts)).draft()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """All that the inputs say, and what follows from it."""

    matrix: Matrix | None
    smi: Smi | None
    ports: list[Port]
    nccl: NcclTopology | None
    host: Host

    @property
    def gpus(self) -> int:
        if self.matrix:
            return len(self.matrix.gpus)
        if self.nccl:
            return self.nccl.gpus
        return len(self.smi.names) if self.smi else 0

    @property
    def gpu_name(self) -> str | None:
        """The catalogue's name of the GPU."""
        for name, gpu in known_gpus().items():
            if self.smi and self.smi.names[0] in gpu.printed_as:
                return name
            if not self.smi and self.nccl and self.nccl.device_id in gpu.pci_device_ids:
                return name
        return None

    @property
    def gpu(self) -> GpuFile:
        """The catalogue's entry, or the one that is nearest by its compute capability."""
        known = known_gpus()
        if self.gpu_name:
            return known[self.gpu_name]
        alike = [gpu for gpu in known.values() if gpu.compute_capability == self.capability]
        return alike[0] if alike else known["H100-SXM5-80GB"]

    @property
    def capability(self) -> str:
        """The compute capability: NCCL's sm, else the catalogue's; of an H100 where none is."""
        if self.nccl and 50 <= self.nccl.sm <= 999:
            return f"{self.nccl.sm // 10}.{self.nccl.sm % 10}"
        return known_gpus()[self.gpu_name or "H100-SXM5-80GB"].compute_capability

    @property
    def nvlink_domain(self) -> int:
        if self.matrix:
            return equal_domains(self.gpus, joined_by_matrix(self.matrix))
        return equal_domains(self.gpus, self.nccl.joined) if self.nccl else 1

    @property
    def nvlinks(self) -> int:
        if self.matrix and links_by_matrix(self.matrix):
            return links_by_matrix(self.matrix)
        return self.nccl.nvlinks if self.nccl else 0

    @property
    def nics(self) -> list[str]:
        """NICs that seem to carry training: near a GPU, up, and of the fastest kind."""
        known = (self.nccl.nics if self.nccl else None) or {}
        names = list(known) or [port.device for port in self.ports]
        if self.matrix:
            names = self.matrix.near_nics() or self.matrix.all_nics()
        usable = {port.device for port in self.ports if port.netdev.startswith("ib")}
        # InfiniBand works without an IP address, for which ibdev2netdev says Down.
        usable = usable or {port.device for port in self.ports if port.up}
        names = [name for name in names if name in usable] or names
        fastest = max((known[name] for name in names if name in known), default=0.0)
        return [name for name in names if known.get(name, fastest) == fastest]

    @property
    def gbits(self) -> float:
        """Gbit/s of one of the NICs, of NCCL's fastest where no legend names them; 0: not said."""
        known = self.nccl.nics if self.nccl else {}
        named = (known[name] for name in self.nics if name in known)
        return next(named, max(known.values(), default=0.0))

    @property
    def network_kind(self) -> str | None:
        """The kind of network; None: not said."""
        if not self.nics:
            return "Ethernet"
        for beginning, kind in _DEVICES.items():
            if self.nics[0].startswith(beginning):
                return kind
        # Without a legend the matrix has NIC0 where ibdev2netdev has mlx5_0.
        named = [port.netdev for port in self.ports if port.device in self.nics]
        netdevs = named or [port.netdev for port in self.ports]
        if not netdevs:
            return None
        return "InfiniBand" if any(name.startswith("ib") for name in netdevs) else "RoCE"


@dataclass(slots=True)
class _Writer:
    """Writes the file, and keeps what is to be filled in."""

    node: _Node
    commands: list[str]
    to_fill: list[tuple[str, str]] = field(default_factory=list)

    def draft(self) -> Draft:
        lines = [
            *self._description(),
            *self._gpu(),
            f"gpus_per_node: {self.node.gpus}",
            *self._host(),
            *self._nvlink(),
            *self._pcie(),
            *self._network(),
        ]
        head = [f"# Drafted from {', '.join(self.commands)}. To fill in:"]
        head += [f"#   {key}: {_plain(why)}" for key, why in self.to_fill]
        return Draft("\n".join([*head, *lines]) + "\n", self.to_fill)

    def _number(self, key: str, value: float, source: str | None, *, ask: str = "") -> str:
        """`key: {value, source}`; without a source it is assumed, and asked for."""
        shown = f"{value:.10g}"
        name = key.rpartition(".")[2]
        indent = "  " * key.count(".")
        if source is not None:
            return f"{indent}{name}: {{value: {shown}, source: {_quoted(source)}}}"
        self.to_fill.append((key, ask or _NOT_SAID))
        said = f"{{value: {shown}, source: {_quoted(ask or _NOT_SAID)}, assumed: true}}"
        return f"{indent}{name}: {said}  # fill in"

    def _description(self) -> list[str]:
        node = self.node
        name = node.smi.names[0] if node.smi else node.gpu_name or "GPU"
        text = f"detected: {node.gpus} x {name}, {len(node.nics)} NICs"
        if node.smi and (len(set(node.smi.names)) > 1 or len(node.smi.names) != node.gpus):
            seen = ", ".join(sorted(set(node.smi.names)))
            why = f"nvidia-smi shows {len(node.smi.names)} GPUs: {seen}; the first is taken"
            self.to_fill.append(("gpu", why))
        return [f"description: {_quoted(text)}"]

    def _gpu(self) -> list[str]:
        node = self.node
        if node.gpu_name:
            self._check_memory(node.gpu)
            return [f"gpu: {node.gpu_name}"]
        name = node.smi.names[0] if node.smi else "GPU"
        near = node.gpu
        why = "this GPU is not in the catalogue" if node.smi else "nvidia-smi would name the GPU"
        ask = f"{why}: copied from {near.printed_as[0]}"
        memory = node.smi.memory_mib[0] - _MARGIN_MIB if node.smi and node.smi.memory_mib else 0
        usable = memory if memory > 0 else near.memory_usable_mib.value
        memory_ask = f"nvidia-smi's total less {_MARGIN_MIB} MiB" if memory > 0 else ask
        return [
            "gpu:",
            f"  name: {_quoted(name)}",
            f'  compute_capability: "{node.capability}"',
            self._number("gpu.memory_usable_mib", usable, None, ask=memory_ask),
            *(
                self._number(f"gpu.{key}", getattr(near, key).value, None, ask=ask)
                for key in (
                    "bf16_teraflops_per_second",
                    "hbm_gbytes_per_second",
                    "pcie_gbytes_per_second",
                )
            ),
        ]

    def _check_memory(self, gpu: GpuFile) -> None:
        smi = self.node.smi
        if smi and smi.memory_mib and gpu.memory_smi_mib:
            shown, known = smi.memory_mib[0], gpu.memory_smi_mib.value
            if abs(shown - known) > 0.02 * known:
                why = f"nvidia-smi shows {shown} MiB, the catalogue's GPU has {known:.0f}"
                self.to_fill.append(("gpu", why))

    def _host(self) -> list[str]:
        node = self.node
        here = "the operating system of the node"
        memory, cpus = node.host.memory_gib, node.host.cpus
        affinity = node.matrix.cpus if node.matrix else 0
        assumed = node.gpus * _ASSUMED_CPUS_A_GPU
        cpus_source = here if cpus else "nvidia-smi topo -m, CPU affinity" if affinity else None
        return [
            self._number(
                "host_memory_gib",
                memory or node.gpus * _ASSUMED_HOST_GIB_A_GPU,
                here if memory else None,
            ),
            self._number("cpus_per_node", cpus or affinity or assumed, cpus_source),
        ]

    def _nvlink(self) -> list[str]:
        node, domain = self.node, self.node.nvlink_domain
        if not node.matrix and not node.nccl:
            self.to_fill.append(("nvlink", "not in the inputs: give --nvidia-smi-topo"))
        if domain == 1 or not node.nvlinks:
            if node.nvlinks and node.gpus > 1:
                why = "it joins some GPUs, but no equal groups of neighbours: left out"
                self.to_fill.append(("nvlink", why))
            return []
        major = min(10, max(8, int(node.capability.partition(".")[0])))
        family, per_link = _NVLINK[major]
        if node.capability == "8.6":
            per_link = _NVLINK_OF_CARDS
        comment, rack = "", _RACKS.get(node.gpu_name or "")
        if rack and rack % node.gpus == 0:
            domain, comment = rack, "  # a node does not show how many trays its rack joins"
            self.to_fill.append(("nvlink.domain_size", "the GPUs of the rack that NVLink joins"))
        bandwidth = node.nvlinks * per_link
        source = f"{node.nvlinks} NVLinks of {per_link:g} GB/s in one direction"
        return [
            "nvlink:",
            f"  domain_size: {domain}{comment}",
            self._number("nvlink.gbytes_per_second", bandwidth, source),
            self._number("nvlink.latency_microseconds", 3.4, _HOP),
            f"  efficiency: {family}",
        ]

    def _pcie(self) -> list[str]:
        node = self.node
        if node.nvlink_domain >= node.gpus and (node.nvlinks or node.gpus == 1):
            return []
        said = node.nccl.pcie_gbytes_per_second if node.nccl else 0.0
        known = node.gpu.pcie_gbytes_per_second
        source = "NCCL's link speed and width of the first GPU" if said else None
        return [
            "pcie:",
            self._number("pcie.gbytes_per_second", said or known.value, source, ask=known.source),
            self._number("pcie.latency_microseconds", 5.7, f"{_HOP} over PCIe"),
            "  efficiency: pcie",
        ]

    def _network(self) -> list[str]:
        node = self.node
        kind = node.network_kind or "InfiniBand"
        comment = ""
        if node.network_kind is None or not node.nics:
            comment = "  # fill in"
            self.to_fill.append(("network.kind", "InfiniBand, RoCE, EFA, eRDMA or Ethernet"))
        taken = _KINDS[kind]
        count = len(node.nics)
        if not count:
            self.to_fill.append(("network.nics_per_node", "no NIC was seen"))
        elif node.matrix and not node.matrix.near_nics():
            self.to_fill.append(("network.nics_per_node", "the inputs do not tell front-end NICs"))
        speed_source = "NCCL's speed of the NIC" if node.gbits else None
        latency_source = None if taken.assumed else taken.latency_source
        return [
            "network:",
            f"  kind: {kind}{comment}",
            f"  nics_per_node: {count or 1}",
            self._number(
                "network.gbits_per_second_per_nic", node.gbits or taken.gbits, speed_source
            ),
            self._number(
                "network.latency_microseconds",
                taken.latency_microseconds,
                latency_source,
                ask=taken.latency_source,
            ),
            f"  efficiency: {taken.efficiency}",
        ]


def _quoted(text: str) -> str:
    """A text as YAML reads it back: JSON is YAML."""
    return json.dumps(text)


def _plain(text: str) -> str:
    """A text that may stand in a comment."""
    return json.dumps(text)[1:-1]
