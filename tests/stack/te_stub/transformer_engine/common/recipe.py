"""Names of FP8 recipes, which megatron-core subclasses at import. There is no FP8 here."""


class DelayedScaling:
    """Base class of megatron-core's `TEDelayedScaling`."""

    def __init__(self, **_: object) -> None:
        raise NotImplementedError("the Transformer Engine stand-in has no FP8")
