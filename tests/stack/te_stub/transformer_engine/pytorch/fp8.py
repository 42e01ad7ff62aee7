"""FP8 that is never on."""

from collections.abc import Iterator
from contextlib import contextmanager


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
