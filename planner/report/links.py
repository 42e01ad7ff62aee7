"""The links of a cluster in words."""

from itertools import groupby

from planner.cluster import Cluster
from planner.units import BITS_PER_BYTE, GIGA


def link_words(cluster: Cluster) -> list[str]:
    """What joins the GPUs of a job, the fastest first."""
    found = [*_nvlink(cluster), *_pcie(cluster)]
    if cluster.num_nodes > 1:
        found += [f"{nic_words(cluster)} {cluster.network_kind} a node", *_spine(cluster)]
    return found


def nic_words(cluster: Cluster) -> str:
    """Numbers and speeds of the NICs of a host, for example 8 x 400 Gbit/s."""
    runs = groupby(cluster.nic_bandwidths_bytes_per_second)
    return " + ".join(
        f"{sum(1 for _ in run)} x {bandwidth * BITS_PER_BYTE / GIGA:.4g} Gbit/s"
        for bandwidth, run in runs
    )


def _nvlink(cluster: Cluster) -> list[str]:
    bandwidth, domain = cluster.nvlink_bandwidth_bytes_per_second, cluster.nvlink_domain_size
    if bandwidth is None:
        return ["no NVLink"]
    words = f"NVLink {bandwidth / GIGA:.4g} GB/s"
    if domain > cluster.gpus_per_node:
        return [f"{words} in racks of {domain} GPUs"]
    return [words if domain == cluster.gpus_per_node else f"{words} in groups of {domain}"]


def _pcie(cluster: Cluster) -> list[str]:
    bandwidth = cluster.pcie_bandwidth_bytes_per_second
    if bandwidth is None or cluster.nvlink_domain_size >= cluster.gpus_per_node:
        return []
    return [f"PCIe {bandwidth / GIGA:.4g} GB/s"]


def _spine(cluster: Cluster) -> list[str]:
    if cluster.leaf_size >= cluster.num_gpus:
        return []
    return [f"{cluster.oversubscription:g}:1 above {cluster.nodes_per_leaf} nodes"]
