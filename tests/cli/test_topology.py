"""`plan topology`: what it prints, what it doubts, what it drafts, and every mistake."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from console import Ran, plan
from golden_files import check_golden

from planner.messages import MESSAGES
from planner.topology_files import TOPOLOGIES_FOLDER, aliases, known_topologies, load_topology
from planner.topology_schema import known_gpus
from planner.topology_traps import CHECKS

NODES = Path(__file__).parents[1] / "inputs" / "nodes"
H100 = (
    *("--nvidia-smi-topo", NODES / "h100.topo.txt"),
    *("--nvidia-smi", NODES / "h100.smi.txt"),
    *("--ibdev2netdev", NODES / "imbue.ibdev.txt"),
)
MIXED = """
like: h100-8x-ib
description: 4 NICs of 400 and 2 of 200 Gbit/s, 16 hosts below a leaf, 2:1 above
network:
  nics_per_node: null
  gbits_per_second_per_nic: null
  nics:
    - {count: 4, gbits_per_second_per_nic: {value: 400, source: lspci}}
    - {count: 2, gbits_per_second_per_nic: {value: 200, source: lspci}}
  nodes_per_leaf: 16
  oversubscription: {value: 2, source: the cabling plan, assumed: true}
"""
TRAPPED = """
like: h100-8x-ib
description: every number as it is printed somewhere
gpu:
  name: H100
  compute_capability: "9.0"
  memory_usable_mib: {value: 81920, source: the label}
  bf16_teraflops_per_second: {value: 1979, source: the data sheet}
  hbm_gbytes_per_second: {value: 3350, source: the data sheet}
  pcie_gbytes_per_second: {value: 64, source: the data sheet}
nvlink: {gbytes_per_second: {value: 900, source: the data sheet}}
network: {nics_per_node: 10, gbits_per_second_per_nic: {value: 3200, source: the headline}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    (tmp_path / "mixed.yaml").write_text(MIXED)
    (tmp_path / "trapped.yaml").write_text(TRAPPED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SCREENS = ["h100-8x-ib", "gb200-nvl72", "h100-nvl-8x", "l40s-8x-pcie", "mixed.yaml", "trapped.yaml"]


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", SCREENS)
def test_golden_check(folder: Path, name: str, columns: int) -> None:
    ran = plan("topology", "check", name, columns=columns)
    assert (ran.status, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= columns
    stem = name.removesuffix(".yaml")
    check_golden(f"cli/topology-check-{stem}-{columns}.txt", ran.out)


def test_golden_list() -> None:
    ran = plan("topology", "list")
    assert (ran.status, ran.err) == (0, "")
    check_golden("cli/topology-list.txt", ran.out)


def test_golden_detect() -> None:
    ran = plan("topology", "detect", *H100)
    assert (ran.status, ran.err) == (0, "")
    check_golden("cli/topology-detect.yaml", ran.out)


def test_the_list_is_of_all_topologies_and_their_names() -> None:
    listed = plan("topology", "list", "--json").answer["topologies"]

    assert [each["name"] for each in listed] == known_topologies()
    assert {name for each in listed for name in each["aliases"]} == set(aliases())


def ids(ran: Ran) -> list[str]:
    return [each["id"] for each in ran.answer["warnings"]]


@pytest.mark.parametrize("name", known_topologies())
def test_no_topology_of_ours_falls_into_a_trap(name: str) -> None:
    ran = plan("topology", "check", name, "--json")

    assert (ran.status, ids(ran)) == (0, [])
    assert ran.answer["topology"]["name"] == name


def test_every_trap_is_told_with_the_number_and_the_likely_one(folder: Path) -> None:
    ran = plan("topology", "check", "trapped.yaml", "--json")
    told = {each["id"]: (each["value"], each["likely"]) for each in ran.answer["warnings"]}

    assert told == {
        "sparse_flops": (1979, 989),
        "bidirectional_nvlink": (900, 450),
        "label_memory": (81920, 81089),
        "total_gbits": (3200, 320),
        "front_end_nic": (10, 8),
    }


def test_a_nic_faster_than_its_pcie_is_told(folder: Path) -> None:
    mine = {
        "like": "a100-8x-ib",
        "network": {"gbits_per_second_per_nic": {"value": 400, "source": "x"}},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(mine))
    ran = plan("topology", "check", "mine.yaml", "--json")

    assert ids(ran) == ["nic_over_pcie"]
    assert ran.answer["warnings"][0]["likely"] == 256


def test_nvlink_of_900_is_right_for_blackwell() -> None:
    assert ids(plan("topology", "check", "b200-8x-ib", "--json")) == []


def test_every_check_has_its_sentence() -> None:
    assert {f"trap.{name}" for name in CHECKS} == {
        name for name in MESSAGES if name.startswith("trap.")
    }


@pytest.mark.parametrize("name", known_gpus())
def test_no_gpu_of_the_catalogue_looks_like_a_mistake(folder: Path, name: str) -> None:
    """Also where its numbers are written out, as a user copies them."""
    nvlink = {"value": 100, "source": "none of the catalogue's"}
    mine = {"like": "h100-8x-ib", "gpu": name, "nvlink": {"gbytes_per_second": nvlink}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(mine))

    assert set(ids(plan("topology", "check", "mine.yaml", "--json"))) <= {"nic_over_pcie"}


@pytest.mark.parametrize("name", known_topologies())
def test_plans_are_made_on_every_topology(name: str) -> None:
    gpus = 2 * load_topology(name, 1).gpus_per_node
    words = ("--gpus", gpus, "--model", "Qwen2.5-7B", "--tuner-type", "lora", "--topology", name)
    ran = plan(*words, "--global-batch-size", 16, "--json")

    assert ran.status == 0
    assert ran.answer["inputs"]["cluster"]["name"] == name
    assert ran.answer["inputs"]["cluster"]["num_nodes"] == 2


def ways_out(ran: Ran) -> list[list[str]]:
    """The flags of each thing to try."""
    lines = [line for line in ran.err.splitlines() if line.startswith("try: ")]
    return [
        line.rpartition(": ")[2].removesuffix(" fits").split()
        for line in lines
        if line.endswith(" fits")
    ]


@pytest.mark.parametrize(
    ("gpus", "model", "topology", "flag"),
    [
        (8, "Qwen3-30B-A3B", "h100-pcie-8x", "--placement"),
        (4, "Qwen3-235B-A22B", "gb200-nvl72", "--gpus"),
    ],
)
def test_what_is_proposed_where_nothing_fits_works(
    gpus: int, model: str, topology: str, flag: str
) -> None:
    """Leaving NVLink where there is none; whole trays, not hosts of 8."""
    words = ("--model", model, "--topology", topology)
    ran = plan("--gpus", gpus, *words)
    found = next(way for way in ways_out(ran) if way[0] == flag)

    assert ran.status == 3
    assert plan(*(() if flag == "--gpus" else ("--gpus", gpus)), *words, *found).status == 0


# -- detect ----------------------------------------------------------------------------------------


def test_a_draft_is_written_once_and_passes_the_check(folder: Path) -> None:
    ran = plan("topology", "detect", *H100, "--output", "mine.yaml")
    assert (ran.status, ran.err) == (0, "")
    assert "network.gbits_per_second_per_nic: not in the inputs" in ran.out
    assert ran.out.startswith("Written    mine.yaml\nTo fill in ")
    assert ran.out.endswith("\nNext       plan --topology mine.yaml --gpus N --model MODEL\n")
    assert plan("topology", "check", "mine.yaml").status == 0
    assert stat.S_IMODE((folder / "mine.yaml").stat().st_mode) == 0o644

    (folder / "mine.yaml").write_text("mine")
    again = plan("topology", "detect", *H100, "--output", "mine.yaml")
    assert (again.status, again.out) == (2, "") and "mine.yaml exists already" in again.err
    assert (folder / "mine.yaml").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == [
        "mine.yaml",
        "mixed.yaml",
        "trapped.yaml",
    ]


def test_a_draft_in_json_has_its_text_and_what_to_fill_in(folder: Path) -> None:
    answer = plan("topology", "detect", *H100, "--output", "mine.yaml", "--json").answer

    assert answer["topology"] == (folder / "mine.yaml").read_text()
    assert {each["key"] for each in answer["to_fill"]} == {
        "host_memory_gib",
        "network.gbits_per_second_per_nic",
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("check",), "missing argument 'topology'"),
        (("check", "h100-8x"), "the nearest is h100-8x-ib"),
        (("check", "none.yaml"), "none.yaml cannot be read"),
        (("check", "MI300X"), "'MI300X' cannot be planned for: AMD's GPUs"),
        (("check", "zzzzzz"), "plan topology list shows all"),
        (("detect", "--nccl-topo", "none.xml"), "none.xml cannot be read"),
        (("detect", "--nccl-topo", NODES / "h100.topo.txt"), "it is not whole XML"),
        (("detect", "--ibdev2netdev", NODES / "roce.ibdev.txt"), "the inputs name no GPU"),
        (("detect", *H100, "--output", "no/such/folder.yaml"), "no such file or directory"),
        (("detekt",), "no such command 'detekt'"),
        ((), "missing command"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, words: tuple[Any, ...], says: str) -> None:
    ran = plan("topology", *words)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1
    assert says in ran.err
    ran = plan("topology", *words, "--json")
    assert (ran.status, ran.err) == (2, "") and set(ran.answer) == {"format_version", "error"}


def test_without_nvidia_smi_a_node_cannot_be_asked(folder: Path) -> None:
    ran = plan("topology", "detect", env={"PATH": str(folder)})
    assert (ran.status, ran.out) == (4, "") and ran.err.count("\n") == 1
    assert "nvidia-smi" in ran.err and "--nvidia-smi-topo" in ran.err
    answer = plan("topology", "detect", "--json", env={"PATH": str(folder)}).answer
    assert answer["error"]["id"] == "environment.nvidia_smi"


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_node_that_answers_is_drafted(folder: Path) -> None:
    """With commands that print what real nodes printed."""
    topo, smi = NODES / "gb200.topo.txt", NODES / "gb200.smi.txt"
    command(folder, "nvidia-smi", f'[ "$1" = topo ] && exec /bin/cat {topo}\nexec /bin/cat {smi}')
    found = yaml.safe_load(plan("topology", "detect", env={"PATH": str(folder)}).out)

    assert (found["gpu"], found["nvlink"]["domain_size"]) == ("GB200", 72)
    assert found["cpus_per_node"] == {
        "value": os.cpu_count(),
        "source": "the operating system of the node",
    }


def test_a_command_that_fails_is_a_lack_of_the_machine(folder: Path) -> None:
    command(folder, "nvidia-smi", "echo broken; exit 9")
    ran = plan("topology", "detect", env={"PATH": str(folder)})

    assert ran.status == 4 and "status 9" in ran.err


# -- the document ----------------------------------------------------------------------------------

README = (TOPOLOGIES_FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", known_topologies())
def test_the_table_of_the_document_is_right(name: str) -> None:
    cluster = load_topology(name, 1)
    rows = [line.split(" | ") for line in README.splitlines() if line.startswith(f"| `{name}`")]

    assert len(rows) == 1
    assert rows[0][1].split(",")[0] == f"{cluster.gpus_per_node} x {cluster.gpu.name}"
    assert ("no NVLink" in rows[0][1]) == (cluster.nvlink_domain_size == 1)
    assert rows[0][2].startswith(f"{cluster.nics_per_node} x ")
    assert rows[0][2].endswith(f" {cluster.network_kind} |")


def test_the_example_of_the_document_is_a_topology(folder: Path) -> None:
    (folder / "example.yaml").write_text(README.split("```yaml\n")[1].split("```")[0])
    cluster = load_topology("example.yaml", 100)

    assert (cluster.nvlink_domain_size, cluster.oversubscription) == (64, 2)
    assert "spine" in cluster.links


def test_an_offloaded_optimizer_that_its_host_cannot_hold_does_not_run() -> None:
    rack = ("--gpus", "4", "--model", "GLM-4.5-Air", "--topology", "gb300-nvl72", "--ep", "4")
    away = ("--set", "optimizer_cpu_offload=true", "--set", "use_precision_aware_optimizer=true")
    text = " ".join(plan("check", *rack, *away).out.split())

    assert "GiB of each host, which has" in text
    assert "but it does not run" in text
