"""What megatron-core imports for recomputing layers and for `--te_rng_tracker`."""

from contextlib import AbstractContextManager, nullcontext


class CudaRNGStatesTracker:
    """A name only."""


def activation_recompute_forward(*_: object, **__: object) -> AbstractContextManager[None]:
    """Return a context that does nothing: it marks phases of FP8 scaling."""
    return nullcontext()
