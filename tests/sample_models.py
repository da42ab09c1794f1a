"""Small models, written as ONNX text, that several tests share."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def from_text(text: str, **weights: np.ndarray) -> ir.Model:
    """Return the model that `text` describes (onnx.parser syntax), with `weights` as further initializers.

    A weight replaces the graph input or the initializer of the same name, so that text need not spell numbers out.
    """
    model = ir.from_onnx_text(text)
    for name, array in weights.items():
        value = next((v for v in model.graph.inputs if v.name == name), None)
        if value is not None:
            model.graph.inputs.remove(value)
        else:
            value = model.graph.initializers.get(name) or next(
                v for node in model.graph for v in node.inputs if v is not None and v.name == name
            )
        value.const_value = ir.tensor(array, name=name)
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
        model.graph.initializers[name] = value
    return model
