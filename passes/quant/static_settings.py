"""The options of the pass that concern static quantization, and what follows from them."""

from __future__ import annotations

import dataclasses

from .integers import IntegerType
from .parameters import WeightSettings
from .saturation import Saturation
from .scales import Activations, Calibration
from .sensitivity import Sensitivity
from .table import Int8Table
from .weights import Rounding


@dataclasses.dataclass(frozen=True)
class StaticSettings:
    """The options of the pass that concern static quantization."""

    calibration: Calibration
    percentile: float
    activations: Activations
    """One that has levels, or `AUTO`."""
    weights: IntegerType
    per_channel: bool
    saturation: Saturation
    """Not `AUTO`."""
    rounding: Rounding
    bias_correction: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    equalize: bool
    samples: int
    error: float
    float_time: float
    latency: float | None
    size: float | None
    timed: bool
    """Whether times are measured."""
    sensitivity: Sensitivity = Sensitivity.MEASURED

    @property
    def of_weights(self) -> WeightSettings:
        """Those that concern weights."""
        search = self.calibration in (Calibration.MSE, Calibration.AUTO)
        return WeightSettings(self.saturation, self.per_channel, search, self.weights)

    @property
    def few_bits_of_weights(self) -> bool:
        """Whether weights have fewer bits than kernels multiply."""
        return self.weights.narrow

    @property
    def few_bits(self) -> bool:
        """Whether weights or activations have fewer bits than kernels multiply: not for the time that they take."""
        own = self.activations.integers
        return self.few_bits_of_weights or (own is not None and own.narrow)

    @property
    def makes_up(self) -> bool:
        """Whether layers may make up for what those in front of them lose."""
        return self.rounding is Rounding.FITTED and self.bias_correction

    def integers(self, table: Int8Table) -> IntegerType:
        """What activations become on a target."""
        return self.activations.integers or IntegerType.named(table.activations)

    def wide(self, table: Int8Table) -> IntegerType | None:
        """What activations become that cost the outputs most; None: as all others."""
        own = self.integers(table)
        if not (self.float_time or self.error < 1):
            return None
        if own.narrow:
            return own.kept_in
        return IntegerType.named(table.wider) if table.wider and self.activations is Activations.AUTO else None
