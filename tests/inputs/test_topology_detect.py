"""Drafts of topologies from what real nodes print; the sources stand in the files themselves."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.errors import UsageError
from planner.topology_detect import (
    IBDEV,
    NCCL,
    SMI,
    TOPO,
    Source,
    equal_domains,
    parse_ibdev,
    parse_matrix,
    parse_nccl,
    parse_smi,
)
from planner.topology_draft import Draft, Host, draft
from planner.topology_files import load_topology

NODES = Path(__file__).parent / "nodes"
COMMANDS = {"topo.txt": TOPO, "smi.txt": SMI, "ibdev.txt": IBDEV, "nccl.xml": NCCL}


def source(name: str) -> Source:
    return Source(COMMANDS[name.partition(".")[2]], (NODES / name).read_text())


def drafted(*names: str, host: Host | None = None) -> Draft:
    return draft([source(name) for name in names], host)


def content(*names: str) -> Any:
    return yaml.safe_load(drafted(*names).text)


@pytest.mark.parametrize(
    ("name", "gpus", "near", "domain", "cpus"),
    [
        ("h100.topo.txt", 8, 8, 8, 160),  # NIC0 is near no GPU
        ("dgx-a100.topo.txt", 8, 8, 8, 128),  # four of twelve NICs are for storage
        ("gb200.topo.txt", 4, 0, 4, 144),
        ("rtx4090.topo.txt", 8, 2, 1, 224),
        ("pcie.topo.txt", 8, 8, 1, 152),
        ("pair.topo.txt", 3, 2, 1, 8),
    ],
)
def test_a_matrix_is_read(name: str, gpus: int, near: int, domain: int, cpus: int) -> None:
    matrix = parse_matrix(source(name))
    joined = [
        {n for n, other in enumerate(matrix.gpus) if matrix.cells[gpu, other].startswith("NV")}
        for gpu in matrix.gpus
    ]

    assert (len(matrix.gpus), len(matrix.near_nics()), matrix.cpus) == (gpus, near, cpus)
    assert equal_domains(gpus, joined) == domain


def test_a_legend_names_the_nics() -> None:
    assert parse_matrix(source("pair.topo.txt")).near_nics() == ["mlx5_0", "mlx5_1"]


def test_colours_and_indentation_of_a_matrix_do_not_matter() -> None:
    plain = source("h100.topo.txt")
    heading, rest = plain.text.split("\n", 1)[1].split("\n", 1)
    coloured = Source(TOPO, f"    \x1b[4m{heading.strip()}\x1b[0m\n" + rest.replace("\n", "\n    "))

    assert parse_matrix(coloured) == parse_matrix(plain)


@pytest.mark.parametrize(
    ("text", "names", "memory"),
    [
        (
            "GPU 0: NVIDIA H20 (UUID: GPU-1)\n  MIG 1g.24gb Device 0: (UUID: MIG-1)",
            ["NVIDIA H20"],
            [],
        ),
        (
            "    Product Name                          : NVIDIA B200\n"
            "    FB Memory Usage\n        Total                             : 183359 MiB\n",
            ["NVIDIA B200"],
            [183359],
        ),
        ("0, NVIDIA L40S, 00000000:1B:00.0, 46068 MiB, 45353 MiB, 8.9", ["NVIDIA L40S"], [46068]),
    ],
)
def test_every_form_of_nvidia_smi_is_read(text: str, names: list[str], memory: list[int]) -> None:
    found = parse_smi(Source(SMI, text))

    assert (found.names, found.memory_mib) == (names, memory)


def test_the_table_of_nvidia_smi_is_read() -> None:
    found = parse_smi(source("h100.smi.txt"))

    assert found.names == ["NVIDIA H100 80GB HBM3"] * 8
    assert found.memory_mib == [81559] * 8


def test_ports_are_read_also_with_more_words() -> None:
    ports = parse_ibdev(source("imbue.ibdev.txt"))
    verbose = (
        "0000:05:00.0 mlx5_0 (MT4123 - MCX653105A) CX653105A fw 20.31 port 1 (ACTIVE) ==> ib0 (Up)"
    )

    assert [port.device for port in ports if port.netdev.startswith("ib")] == [
        f"mlx5_{number}" for number in (0, 10, 11, 3, 4, 5, 6, 9)
    ]
    assert parse_ibdev(Source(IBDEV, verbose))[0].device == "mlx5_0"


def test_nccls_view_is_read() -> None:
    found = parse_nccl(source("h200.nccl.xml"))

    assert (found.gpus, found.sm, found.device_id) == (3, 90, "0x2335")
    assert (found.nvlinks, found.pcie_gbytes_per_second) == (18, 64.0)
    assert found.joined == [{0, 1, 2}] * 3
    assert found.nics == dict.fromkeys(["mlx5_0", "mlx5_1", "mlx5_2"], 400.0)


def test_a_host_of_8_h100_is_drafted_with_what_it_says() -> None:
    found = content("h100.topo.txt", "h100.smi.txt", "imbue.ibdev.txt")

    assert (found["gpu"], found["gpus_per_node"]) == ("H100-SXM5-80GB", 8)
    assert found["nvlink"]["domain_size"] == 8
    assert found["nvlink"]["gbytes_per_second"]["value"] == 450
    assert (found["network"]["kind"], found["network"]["nics_per_node"]) == ("InfiniBand", 8)
    assert found["network"]["gbits_per_second_per_nic"]["assumed"] is True
    assert "assumed" not in found["cpus_per_node"]


def test_infiniband_without_ip_addresses_is_up() -> None:
    """imbue's hosts: eight InfiniBand ports are Down for IP, two Ethernet ports are Up."""
    found = content("h100.smi.txt", "imbue.ibdev.txt")

    assert (found["network"]["kind"], found["network"]["nics_per_node"]) == ("InfiniBand", 8)


def test_roce_is_told_from_infiniband_by_its_network_devices() -> None:
    found = content("dgx-a100.topo.txt", "roce.ibdev.txt")

    assert (found["network"]["kind"], found["network"]["efficiency"]) == ("RoCE", "roce")


def test_a_tray_is_drafted_as_a_part_of_its_rack() -> None:
    found = drafted("gb200.topo.txt", "gb200.smi.txt")
    cluster = yaml.safe_load(found.text)

    assert (cluster["gpu"], cluster["gpus_per_node"]) == ("GB200", 4)
    assert cluster["nvlink"]["domain_size"] == 72
    assert cluster["nvlink"]["gbytes_per_second"]["value"] == 900
    assert {"nvlink.domain_size", "network.nics_per_node"} <= {key for key, _ in found.to_fill}


def test_a_host_without_nvlink_is_drafted_on_pcie() -> None:
    found = content("rtx4090.topo.txt")

    assert "nvlink" not in found and found["pcie"]["efficiency"] == "pcie"


def test_speeds_of_nccl_are_used_where_the_matrix_has_no_legend() -> None:
    found = content("h100.topo.txt", "h200.nccl.xml")["network"]

    assert (found["nics_per_node"], found["gbits_per_second_per_nic"]["value"]) == (8, 400)
    assert "assumed" not in found["gbits_per_second_per_nic"]


def test_a_bridge_of_unequal_groups_is_told() -> None:
    found = drafted("pair.topo.txt")

    assert "nvlink" not in yaml.safe_load(found.text)
    assert any(key == "nvlink" and "left out" in why for key, why in found.to_fill)


def test_a_gpu_that_is_not_in_the_catalogue_is_written_out_as_assumed() -> None:
    smi = Source(SMI, "| 0  NVIDIA RTX 6000 Ada    Off |\n| 30%  0MiB / 49140MiB |")
    found = yaml.safe_load(draft([smi]).text)["gpu"]

    assert found["name"] == "NVIDIA RTX 6000 Ada"
    assert found["memory_usable_mib"]["value"] == 49140 - 730
    assert all(found[key]["assumed"] for key in found if key not in ("name", "compute_capability"))


def test_what_the_operating_system_says_is_not_assumed() -> None:
    host = Host(memory_gib=2015, cpus=224)
    found = yaml.safe_load(drafted("h100.topo.txt", "h100.smi.txt", host=host).text)

    assert found["host_memory_gib"] == {
        "value": 2015,
        "source": "the operating system of the node",
    }
    assert found["cpus_per_node"]["value"] == 224


def test_memory_that_is_not_the_catalogues_is_told() -> None:
    smi = Source(SMI, "|   0  NVIDIA H20    On  |\n| N/A  0MiB / 143771MiB |")

    assert any("143771" in why for key, why in draft([smi]).to_fill if key == "gpu")


ALL = [
    ("h100.topo.txt", "h100.smi.txt", "imbue.ibdev.txt"),
    ("dgx-a100.topo.txt", "roce.ibdev.txt"),
    ("gb200.topo.txt", "gb200.smi.txt"),
    ("rtx4090.topo.txt",),
    ("pcie.topo.txt",),
    ("pair.topo.txt",),
    ("h200.nccl.xml",),
    ("v100.nccl.xml",),
    ("h100.topo.txt", "h200.nccl.xml"),
    ("gb200.smi.txt",),
]


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_every_draft_is_a_topology(names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "draft.yaml"
    path.write_text(drafted(*names).text)
    cluster = load_topology(str(path), 2)

    assert cluster.links
    assumed = {item.id.removeprefix("cluster.") for item in cluster.assumptions}
    asked = {key for key, _ in drafted(*names).to_fill}
    mine = {name for name in assumed if not name.endswith(("efficiency", "gpu.memory_usable_mib"))}
    assert mine <= asked  # but what the catalogue or a family assumes itself


@pytest.mark.parametrize(
    ("command", "text", "says"),
    [
        (TOPO, "", "no line begins with GPU0"),
        (TOPO, "\tGPU0\tGPU1\nGPU0\t X \tNV4\n", "row of GPU1 is missing"),
        (TOPO, "\tGPU0\tGPU1\nGPU0\t X \tNV4\nGPU1\tNV4\n", "row of GPU1 is missing or cut"),
        (TOPO, "GPU0 GPU0\nGPU0 X X", "some twice"),
        (SMI, "NVIDIA-SMI has failed because it couldn't communicate", "no line names a GPU"),
        (IBDEV, "ibdev2netdev: command not found", "no line is like"),
        (NCCL, "<system><cpu>", "not whole XML"),
        (NCCL, "<system/>", "names no GPU"),
        (NCCL, "<!DOCTYPE x [<!ENTITY a 'b'>]><system/>", "document type"),
        (NCCL, "<s><pci vendor='0x1002'><gpu sm='90'/></pci></s>", "not NVIDIA's"),
        (NCCL, "<s><pci><gpu sm='90' gcn='21943'/></pci></s>", "not NVIDIA's"),
    ],
)
def test_what_is_not_the_output_is_told_with_the_reason(command: str, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        draft([Source(command, text, Path("x.txt"))])

    assert caught.value.message_id == "detect.unreadable"
    assert says in caught.value.message and "x.txt" in caught.value.message


def test_ports_alone_name_no_gpu() -> None:
    with pytest.raises(UsageError) as caught:
        drafted("roce.ibdev.txt")

    assert caught.value.message_id == "detect.no_gpus"
