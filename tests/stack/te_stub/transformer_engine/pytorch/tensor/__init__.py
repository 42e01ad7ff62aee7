"""The class of quantized tensors, of which there are none here."""


class QuantizedTensor:
    """A name only: nothing is an instance."""
