"""Whatever looks outside the process: downloads, GPUs, logs."""
