"""What the planner understands of a topology, as JSON and as text."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from planner.cluster import NETWORK, NVLINK, PCIE, Assumption, Cluster
from planner.report.answer import cluster_to_json
from planner.report.links import nic_words
from planner.report.numbers import gib, with_unit
from planner.topology_traps import Warned
from planner.units import BITS_PER_BYTE, GIGA, MICRO, TERA


def topology_to_json(cluster: Cluster, warned: list[Warned]) -> dict[str, Any]:
    """The cluster as in a plan's inputs, with its assumptions and what looks wrong."""
    return {
        "topology": cluster_to_json(cluster),
        "assumptions": [asdict(each) for each in cluster.assumptions],
        "warnings": [
            {
                "id": each.id,
                "key": each.key,
                "value": each.value,
                "likely": each.likely,
                "message": each.reason.message,
                "fix": each.reason.fix,
            }
            for each in warned
        ],
    }


def topology_text(cluster: Cluster, warned: list[Warned], width: int) -> str:
    """A screen: the host, what a GPU gets of each link, what is assumed and what looks wrong."""
    pairs = [
        ("Topology", f"{cluster.name}   {cluster.description}"),
        ("Host", _gpu(cluster)),
        ("", f"{gib(cluster.host_memory_bytes)} GiB of its own, {cluster.cpus_per_node} CPUs"),
        ("NICs", _nics(cluster)),
        *[("", text) for text in _leaves(cluster)],
        *[("Links" if not number else "", text) for number, text in enumerate(_links(cluster))],
        *[("Placement", text) for text in _placement(cluster)],
        *_named("Calibrated", _calibrated(cluster)),
        *_named("Assumed", [_assumed(each) for each in cluster.assumptions]),
        *_named("Warning", [f"{each.reason.message}: {each.reason.fix}" for each in warned]),
    ]
    if not warned:
        pairs.append(("Warning", "none: no number looks like a known mistake"))
    return "".join(_folded(name, text, width) for name, text in pairs)


def drafted_text(
    written: str, to_fill: Sequence[tuple[str, str]], next_step: str, width: int
) -> str:
    """What was written where, the keys that a person fills in and why, and the next command."""
    pairs = [
        ("Written", written),
        *_named("To fill in", [f"{key}: {why}" for key, why in to_fill]),
        ("Next", next_step),
    ]
    return "".join(_folded(name, text, width) for name, text in pairs)


def _named(name: str, texts: list[str]) -> list[tuple[str, str]]:
    return [("" if number else name, text) for number, text in enumerate(texts)]


def _folded(name: str, text: str, width: int) -> str:
    lines = textwrap.wrap(text, max(20, width - 12), break_on_hyphens=False) or [""]
    return "".join(
        f"{name if not number else '':<11}{line}".rstrip() + "\n"
        for number, line in enumerate(lines)
    )


def _calibrated(cluster: Cluster) -> list[str]:
    """What measured steps took over what is predicted without calibration."""
    found = asdict(cluster.calibration)
    return [
        f"{name} takes {factor:.3g} of the time" for name, factor in found.items() if factor != 1
    ]


def _gpu(cluster: Cluster) -> str:
    gpu = cluster.gpu
    capability = ".".join(str(part) for part in gpu.compute_capability)
    return (
        f"{cluster.gpus_per_node} x {gpu.name}: {gib(gpu.memory_usable_bytes)} GiB that torch "
        f"sees, {gpu.bf16_flops_per_second / TERA:.4g} TFLOP/s dense bf16, memory "
        f"{gpu.hbm_bandwidth_bytes_per_second / GIGA:.4g} GB/s, compute capability {capability}"
    )


def _nics(cluster: Cluster) -> str:
    """NICs of a host and how its GPUs share them."""
    nics, gpus = cluster.nic_bandwidths_bytes_per_second, cluster.gpus_per_node
    words = f"{nic_words(cluster)} {cluster.network_kind}"
    if len(nics) == gpus:
        words += ", one for each GPU"
    elif len(nics) % gpus == 0:
        words += f", {len(nics) // gpus} for each GPU"
    elif gpus % len(nics) == 0:
        words += f", {gpus // len(nics)} GPUs share one"
    else:
        words += f", which {gpus} GPUs cannot share evenly"
    share, mean = cluster.links[NETWORK].bandwidth_bytes_per_second, sum(nics) / gpus
    if share < mean * (1 - 1e-9):
        least = f"{share * BITS_PER_BYTE / GIGA:.4g} of {mean * BITS_PER_BYTE / GIGA:.4g} Gbit/s"
        words += f"; the GPU with the least has {least}, and decides"
    return words


def _leaves(cluster: Cluster) -> list[str]:
    if cluster.nodes_per_leaf is None:
        return []
    return [
        f"{cluster.nodes_per_leaf} nodes meet below the spine, "
        f"oversubscribed {cluster.oversubscription:g}:1 above"
    ]


_REACH = {
    PCIE: "inside a host",
    NETWORK: "between hosts",
    "spine": "between hosts of different leaves",
}


def _links(cluster: Cluster) -> list[str]:
    """A line for each class of link."""
    lines = []
    for name, link in cluster.links.items():
        reach = _REACH.get(name) or f"{cluster.nvlink_domain_size} GPUs"
        if name == NVLINK and cluster.nvlink_domain_size > cluster.gpus_per_node:
            reach += f" of {cluster.nvlink_domain_size // cluster.gpus_per_node} hosts"
        lines.append(
            f"{name:<8}{link.bandwidth_bytes_per_second / GIGA:>8.4g} GB/s a GPU and direction, "
            f"{link.latency_seconds / MICRO:.3g} us, {reach}, as {link.efficiency}"
        )
    return lines


def _placement(cluster: Cluster) -> list[str]:
    if cluster.nvlink_domain_size > 1:
        return []
    return ["no NVLink: TP and EP need --placement any, and go over PCIe and the network"]


def _assumed(each: Assumption) -> str:
    return f"{each.id} = {with_unit(each.value, each.unit)}   ({each.source})"


def listed_to_json(clusters: list[Cluster], names: dict[str, list[str]]) -> dict[str, Any]:
    """All topologies: name, description, GPUs and other names."""
    return {
        "topologies": [
            {
                "name": cluster.name,
                "description": cluster.description,
                "gpu": cluster.gpu.name,
                "gpus_per_node": cluster.gpus_per_node,
                "nvlink_domain_size": cluster.nvlink_domain_size,
                "aliases": names.get(cluster.name, []),
                "assumed": len(cluster.assumptions),
            }
            for cluster in clusters
        ],
    }


def listed_text(clusters: list[Cluster], names: dict[str, list[str]], width: int) -> str:
    """A line for each topology, with its other names, and one that says how to use them."""
    first = max(len(cluster.name) for cluster in clusters) + 2
    lines = []
    for cluster in clusters:
        also = f" ({', '.join(names[cluster.name])})" if cluster.name in names else ""
        wrapped = textwrap.wrap(
            cluster.description + also, max(20, width - first), break_on_hyphens=False
        )
        lines += [
            f"{'' if number else cluster.name:<{first}}{line}"
            for number, line in enumerate(wrapped)
        ]
    lines.append("")
    lines += textwrap.wrap(
        "plan --topology NAME takes any of these names; plan topology check NAME shows its "
        "numbers and which of them are assumed",
        width,
    )
    return "\n".join(lines) + "\n"
