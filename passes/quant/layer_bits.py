"""What the report says of layers whose products are computed on, or whose weights are stored in, few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.linear_layer import label
from onnxslim.pipeline.interface import LayerChange, Note

FLOAT_BITS = 32


def bits_change(node: ir.Node, bits: int, macs: int) -> LayerChange:
    """Return that the weight of a layer has so many bits now; `macs` are its multiply-accumulates, which stay."""
    return LayerChange(label(node), node.op_type, "bits", FLOAT_BITS, bits, macs, macs)


def share_in_int8(layers: Sequence[LayerChange], macs: Mapping[str, int]) -> list[Note]:
    """Return a note on how much of the multiply-accumulates of a model `layers` make; none where it has none."""
    total = sum(macs.values())
    share = sum(layer.macs_after for layer in layers) / total if total else 0.0
    return [Note("model", f"{share:.1%} of the multiply-accumulates in int8")] if total else []
