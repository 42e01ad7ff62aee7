"""Seconds of one layer and microbatch, whatever of it is recomputed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from planner.layout import Recompute


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSeconds:
    """Forward and backward of a part: seconds of the GPU, and of the host to launch them."""

    forward: float
    backward: float
    forward_launch: float = 0.0
    backward_launch: float = 0.0

    def __add__(self, other: "PartSeconds") -> "PartSeconds":
        return PartSeconds(
            forward=self.forward + other.forward,
            backward=self.backward + other.backward,
            forward_launch=self.forward_launch + other.forward_launch,
            backward_launch=self.backward_launch + other.backward_launch,
        )

    def times(self, number: int) -> "PartSeconds":
        """So many of it."""
        return PartSeconds(
            forward=number * self.forward,
            backward=number * self.backward,
            forward_launch=number * self.forward_launch,
            backward_launch=number * self.backward_launch,
        )


@dataclass(frozen=True, kw_only=True)
class LayerSeconds:
    """Compute of one layer and microbatch.

    A pass takes as long as its kernels, or as the host to launch them, whichever is longer: a
    sparse layer's dispatcher waits for the GPU forward, a dense layer's lead is seldom more than
    a layer. `again` is what recomputing a module, or the "layer", adds to both passes.
    """

    is_moe: bool
    attention: PartSeconds
    feed_forward: PartSeconds
    again: Mapping[str, PartSeconds]

    @cached_property
    def _both(self) -> PartSeconds:
        """Both parts of the layer."""
        return self.attention + self.feed_forward

    @cached_property
    def forward(self) -> float:
        """Seconds of the forward pass."""
        return max(self._both.forward, self._both.forward_launch)

    @cached_property
    def backward(self) -> float:
        """Seconds of the backward pass, recomputation apart."""
        return max(self._both.backward, self._both.backward_launch)

    def recompute(self, recompute: Recompute, *, full: bool) -> float:
        """Seconds that recomputation adds. What it takes of the host in the forward pass is among
        them."""
        if not full and not recompute.modules:
            return 0.0
        with_it = self._with(recompute, full=full)
        added = max(with_it.forward, with_it.forward_launch) - self.forward
        added += max(with_it.backward, with_it.backward_launch) - self.backward
        if full:
            added += self.forward
        elif self._waits(recompute):
            added += max(self.feed_forward.forward, self.feed_forward.forward_launch)
        return added

    def _with(self, recompute: Recompute, *, full: bool) -> PartSeconds:
        """Both passes with what is recomputed without waiting."""
        seconds = self._both
        for module in ("layer",) if full else recompute.modules:
            if module in self.again:
                seconds += self.again[module]
        return seconds

    def _waits(self, recompute: Recompute) -> bool:
        """Whether the host waits in the backward pass for the GPU, in a dispatcher."""
        return self.is_moe and recompute.feed_forward(self.is_moe)

    def waiting(self, recompute: Recompute, *, full: bool) -> float:
        """Seconds of the backward pass that the GPU waits for a host that could be ahead: one that
        recomputes a dispatcher waits for the GPU itself."""
        if self._waits(recompute) or (full and self.is_moe):
            return 0.0
        seconds = self._with(recompute, full=full)
        return max(0.0, seconds.backward_launch - seconds.backward)
