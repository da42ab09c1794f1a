"""The integers that numbers are rounded to: how many levels they have, where these end, and how they are stored."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import ml_dtypes
import numpy as np

NAME = re.compile(r"(u?)int(\d+)")
OPSETS = {2: 25, 4: 21, 8: 13, 16: 21}
"""QuantizeLinear and DequantizeLinear know integers of so many bits, and an axis, since these operator sets."""
BYTE = 8
"""Bits of the integers that kernels take."""


@dataclasses.dataclass(frozen=True)
class IntegerType:
    """Integers of one size."""

    bits: int
    signed: bool

    @classmethod
    def named(cls, name: str) -> IntegerType:
        """Return the type of a name of ONNX, as "uint8"."""
        found = NAME.fullmatch(name)
        assert found is not None, "names are ours"
        return cls(int(found[2]), not found[1])

    @property
    def name(self) -> str:
        """The name of ONNX."""
        return f"{'' if self.signed else 'u'}int{self.bits}"

    @property
    def lowest(self) -> int:
        """The lowest level."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The highest level."""
        return self.lowest + self.steps

    @property
    def steps(self) -> int:
        """Steps between the lowest and the highest level."""
        return int(2**self.bits - 1)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of arrays of them."""
        return np.dtype(getattr(ml_dtypes, self.name) if self.narrow else self.name)

    @property
    def narrow(self) -> bool:
        """Whether a byte holds more than one of them."""
        return self.bits < BYTE

    @property
    def kept_in(self) -> IntegerType:
        """The type of activations of so many bits as kernels take them: integers of a byte, of which fewer are used."""
        return IntegerType(BYTE, self.signed) if self.narrow else self

    @property
    def opset(self) -> int:
        """The operator set that they need."""
        return OPSETS[self.bits]


UINT8 = IntegerType(8, signed=False)
INT8 = IntegerType(8, signed=True)
INT4 = IntegerType(4, signed=True)
