"""Holds the planner against the real ms-swift, mcore-bridge and megatron-core, without a GPU.

real_stack.py   a process per megatron-core version that answers requests; what tests talk to
worker.py       the other end; it, arguments.py, fake_world.py and meaning.py run inside the stack
te_stub/        a stand-in for transformer_engine, which has no CPU build
cpu_site/       torch.cuda answered by the CPU: emitted scripts run unchanged
models.py       model folders: real config.json files, shorter ones, and a tiny model with weights
layouts.py      layouts of the bundled models; candidates.py: some of short models, legal or not
wheel.py        the arguments of a release, read from its wheel without importing it
emitted.py      runs emitted scripts on CPU processes

Nothing can be concluded from it about memory, speed, FP8, NCCL or context-parallel attention.
`make stacks` installs what it needs.
"""
