"""What sizes are where the sizes that they are made of are numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxslim.ops.arithmetic import broadcast, floordiv, maximum, truncdiv
from onnxslim.ops.symbols import Size, call

FUNCTIONS = {"floordiv": floordiv, "truncdiv": truncdiv, "max": maximum, "broadcast": broadcast}
"""What atoms apply, by the name in their text."""


def value_of(size: Size, names: Mapping[str, int]) -> int:
    """Return what a size is where the named sizes are numbers.

    Raises:
        KeyError: It depends on an atom that `names` does not have.
    """
    if isinstance(size, int):
        return size
    return sum(factor * math.prod(_value_of_atom(atom, names) for atom in m) for m, factor in size.terms)


def _value_of_atom(atom: str, names: Mapping[str, int]) -> int:
    inner = call(atom)
    if inner is None:
        return names[atom.strip("{}")] if atom.strip("{}") in names else names[atom]
    result = FUNCTIONS[inner[0]](*(value_of(argument, names) for argument in inner[1]))
    assert isinstance(result, int)
    return result
