"""The float model that a quantized one stands for: values have the same names in both, and hold the same numbers.

It is not what the user gave: channels may have got other factors on the way, which are not to be seen in a file. So
it goes along with the quantized model, as long as that is in memory.
"""

from __future__ import annotations

import onnx_ir as ir

FLOAT_FORM = "float form"
"""The key in the meta data of the main graph; nothing of it is saved."""


def keep_float_form(model: ir.Model, float_form: ir.Model) -> None:
    """Let a quantized model have its float form with it, which must not be changed afterwards."""
    model.graph.meta[FLOAT_FORM] = float_form


def float_form(model: ir.Model) -> ir.Model | None:
    """Return the float form of a quantized model; None where it is not known, as of one that was opened."""
    found = model.graph.meta.get(FLOAT_FORM)
    return found if isinstance(found, ir.Model) else None
