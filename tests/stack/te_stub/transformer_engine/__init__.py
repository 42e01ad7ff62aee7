"""A plain-torch stand-in for NVIDIA Transformer Engine (see README.md beside this package)."""

from transformer_engine import common, pytorch

__version__ = "2.12.0"
__all__ = ["common", "pytorch"]
