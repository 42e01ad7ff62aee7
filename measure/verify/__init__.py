"""Measures one rank of a run on one GPU, built and trained by the run's own software.

ms-swift's parsed arguments, mcore-bridge's factory, ms-swift's trainer, Megatron's schedule and
optimizer are all real; the other ranks are not there. Nothing here is imported by the planner.
"""
