"""How a model is trained from labels, as the command line and the Python interface take it."""

from __future__ import annotations

import dataclasses
import enum
import math
import pathlib
from collections.abc import Callable, Sequence

from onnxslim.errors import BadOptionValue
from onnxslim.train.augmentation import check_augmentations
from onnxslim.train.distillation import DistillationSettings
from onnxslim.train.optimizer import RATES_FROM_SCRATCH, Optimizer, OptimizerKind
from onnxslim.train.terms import OutputLoss, TermSettings

BY_LABELS = TermSettings(OutputLoss.AUTO, 1.0, 1.0, 0.0)


class FirstWeights(enum.Enum):
    """What a training begins with."""

    RANDOM = "random"
    """Weights that are drawn (`onnxslim.train.initialization`)."""
    KEEP = "keep"
    """Those of the file."""


@dataclasses.dataclass(frozen=True)
class TrainingRequest:
    """How a model is trained.

    Raises:
        BadOptionValue: A number is out of range.
        UsageError: There is no such augmentation.
    """

    epochs: int = 10
    batch: int = 64
    rate: float | None = None
    """The highest learning rate; None: one that suits the optimizer."""
    optimizer: OptimizerKind = OptimizerKind.ADAMW
    weight_decay: float = 0.0
    warmup: float = 0.05
    augment: tuple[str, ...] = ()
    weights: FirstWeights = FirstWeights.RANDOM
    held_out: float = 0.1
    patience: int | None = None
    minutes: float | None = None
    checkpoint: pathlib.Path | None = None
    fold: bool = False
    """Fold what normalises into the layers before it, afterwards."""

    def __post_init__(self) -> None:
        self._check(("epochs", "batch", "patience"), lambda value: value >= 1, "1 or more")
        self._check(("rate", "minutes"), lambda value: 0 < value < math.inf, "a number above 0")
        self._check(("weight_decay",), lambda value: 0 <= value < math.inf, "0 or more")
        self._check(("warmup",), lambda value: 0 <= value <= 1, "a share from 0 to 1")
        self._check(("held_out",), lambda value: 0 < value < 1, "a share between 0 and 1, both excluded")
        check_augmentations(self.augment)

    def _check(self, names: Sequence[str], holds: Callable[[float], bool], allowed: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not holds(value):
                option = f"--{name.replace('_', '-')}"
                raise BadOptionValue(f"it is {value}", where=option, hint=f"{option} is {allowed}")

    @property
    def settings(self) -> DistillationSettings:
        """What the loop of the training is given."""
        return DistillationSettings(
            self.epochs,
            self.batch,
            self.rate or self.usual_rate,
            self.usual_rate,
            self.warmup,
            Optimizer(self.optimizer, weight_decay=self.weight_decay),
            BY_LABELS,
            augment=self.augment,
            held_out=self.held_out,
            patience=self.patience,
            seconds=None if self.minutes is None else 60 * self.minutes,
            checkpoint=self.checkpoint,
        )

    @property
    def usual_rate(self) -> float:
        """The highest learning rate where none is given: less for weights that know something."""
        scratch = RATES_FROM_SCRATCH[self.optimizer]
        return scratch if self.weights is FirstWeights.RANDOM else scratch / 10

    @property
    def options(self) -> dict[str, object]:
        """What was asked for, as the command line takes it."""
        return {
            "--epochs": self.epochs,
            "--batch": self.batch,
            "--rate": self.rate,
            "--optimizer": self.optimizer.value,
            "--weight-decay": self.weight_decay or None,
            "--warmup": self.warmup,
            "--augment": "+".join(self.augment) or None,
            "--weights": self.weights.value,
            "--held-out": self.held_out,
            "--patience": self.patience,
            "--minutes": self.minutes,
            "--checkpoint": self.checkpoint,
            "--fold": self.fold,
        }
