"""Holds the planner against the real ms-swift, mcore-bridge and megatron-core, without a GPU.

real_stack.py   a process per megatron-core version that answers requests; what tests talk to
worker.py       the other end; only it and what it imports run inside the stack
te_stub/        a stand-in for transformer_engine, which has no CPU build
cpu_site/       torch.cuda answered by the CPU: emitted scripts run unchanged
models.py       model folders: real config.json files, and a tiny model with weights
wheel.py        the arguments of a release, read from its wheel without importing it
emitted.py      runs emitted scripts on two CPU processes

Nothing can be concluded from it about memory, speed, FP8, NCCL or context-parallel attention.
"""
