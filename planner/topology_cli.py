"""`plan topology`: lists topologies, checks one, drafts one from what a node says of itself."""

from pathlib import Path
from typing import Annotated, Any

import typer

from planner.command import AsJson, plan_with, quoted, terminal_width, write_output

app = typer.Typer(help="List, check and detect what jobs run on.", rich_markup_mode=None)


@app.command("list")
def list_command(json: AsJson = False) -> None:
    """All topologies that come with the planner, with their other names."""
    from planner.report.topology import listed_text, listed_to_json
    from planner.topology_files import aliases, known_topologies, load_topology

    clusters = [load_topology(name, 1) for name in known_topologies()]
    names: dict[str, list[str]] = {}
    for alias, name in aliases().items():
        names.setdefault(name, []).append(alias)
    if json:
        _print_json(listed_to_json(clusters, names))
    else:
        write_output(listed_text(clusters, names, terminal_width()))


@app.command("check")
def check_command(
    topology: Annotated[str, typer.Argument(help="Name or YAML file.")], json: AsJson = False
) -> None:
    """What the planner understands of a topology, what it assumes, and what looks wrong."""
    from planner.report.topology import topology_text, topology_to_json
    from planner.topology_files import as_cluster, read_topology, topology_path
    from planner.topology_traps import warnings

    path = topology_path(topology)
    file = read_topology(path)
    # So many hosts that every class of link is met: two racks, two leaves.
    rack = max(1, file.nvlink_domain_size // file.gpus_per_node)
    num_nodes = 2 * max(rack, file.network.nodes_per_leaf or 1)
    cluster, warned = as_cluster(path.stem, file, num_nodes, file.gpus_per_node), warnings(file)
    if json:
        _print_json(topology_to_json(cluster, warned))
    else:
        write_output(topology_text(cluster, warned, terminal_width()))


@app.command("detect")
def detect_command(
    nvidia_smi_topo: Annotated[
        Path | None, typer.Option(help="Output of nvidia-smi topo -m.")
    ] = None,
    nvidia_smi: Annotated[
        Path | None, typer.Option(help="Output of nvidia-smi, of -L or of -q.")
    ] = None,
    ibdev2netdev: Annotated[Path | None, typer.Option(help="Output of ibdev2netdev.")] = None,
    nccl_topo: Annotated[
        Path | None, typer.Option(help="XML that NCCL_TOPO_DUMP_FILE names.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The new file; else it is printed.")] = None,
    json: AsJson = False,
) -> None:
    """Draft a topology from outputs in files; with none, from this node's own commands."""
    from planner.topology_detect import IBDEV, NCCL, SMI, TOPO, Source
    from planner.topology_draft import draft
    from planner.yaml_files import read_text

    given = {TOPO: nvidia_smi_topo, SMI: nvidia_smi, IBDEV: ibdev2netdev, NCCL: nccl_topo}
    sources = [Source(command, read_text(path), path) for command, path in given.items() if path]
    host = None
    if not sources:
        from measure.node import node_sources, this_host

        sources, host = node_sources(), this_host()
    drafted = draft(sources, host)
    if output is not None:
        from measure.new_file import write_new_file

        write_new_file(output, drafted.text)
    if json:
        to_fill = [{"key": key, "why": why} for key, why in drafted.to_fill]
        written = str(output) if output is not None else None
        _print_json({"topology": drafted.text, "to_fill": to_fill, "output": written})
    elif output is None:
        write_output(drafted.text)
    else:
        from planner.report.topology import drafted_text

        written, next_step = quoted(str(output)), plan_with("--topology", output)
        write_output(drafted_text(written, drafted.to_fill, next_step, terminal_width()))


def _print_json(content: dict[str, Any]) -> None:
    from planner.report.answer import FORMAT_VERSION
    from planner.report.json_ import as_json

    write_output(as_json({"format_version": FORMAT_VERSION, **content}))
