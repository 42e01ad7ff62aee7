"""Find the parallel layout that trains a MoE model fastest on a cluster, and say why."""

__version__ = "0.1.0"
