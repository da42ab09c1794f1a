"""How the learning rate goes up and down over a training."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A linear warm-up, then half a cosine down to a share of the highest rate (Loshchilov and Hutter 2017, eq. 5)."""

    rate: float
    """The highest learning rate."""
    steps: int
    """Steps of the whole training."""
    warm_up: float = 0.05
    """Share of the steps in which the rate rises."""
    last: float = 0.01
    """What is left of the rate at the end."""

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rising = max(1, round(self.warm_up * self.steps))
        if step < rising:
            return self.rate * (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        return self.rate * (self.last + (1 - self.last) * (1 + math.cos(math.pi * min(1.0, done))) / 2)
