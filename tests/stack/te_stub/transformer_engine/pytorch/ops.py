"""Names that annotate megatron-core's fused MLP, which is off by default."""


class FusibleOperation:
    """A name only."""


class Sequential(FusibleOperation):
    """A name only."""
