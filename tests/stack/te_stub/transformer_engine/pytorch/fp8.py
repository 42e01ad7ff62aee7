"""FP8 that is never on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class FP8GlobalStateManager:
    """Answers that FP8 is off."""

    @staticmethod
    def is_fp8_enabled() -> bool:
        """Return False."""
        return False


@contextmanager
def fp8_autocast(enabled: bool = False, **_: object) -> Iterator[None]:
    """Return a context that does nothing; raise if FP8 is asked for."""
    if enabled:
        raise NotImplementedError("the Transformer Engine stand-in has no FP8")
    yield


fp8_model_init = fp8_autocast


class Fp8Padding(torch.nn.Module):
    """Pads the rows of every expert to a multiple: made with FP8, never run."""

    def __init__(self, num_gemms: int, align_size: int | None = None) -> None:
        super().__init__()

    def forward(self, *_: object) -> None:
        """Raise: the rows are not padded."""
        raise NotImplementedError("the Transformer Engine stand-in has no FP8")


class Fp8Unpadding(Fp8Padding):
    """Takes the padding away."""
