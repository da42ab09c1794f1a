"""Quantized models, and what ONNX Runtime makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from sample_models import from_text

PAIRS_AROUND_FLOATS = """<ir_version: 9, opset_import: ["" : 17]> g (float[1,4,8,8] x) => (float[] y) {
    xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z)
    wd = DequantizeLinear (w, k) c = Conv (xd, wd) cq = QuantizeLinear (c, s, z) cd = DequantizeLinear (cq, s, z)
    [hard] t = HardSigmoid (cd) tq = QuantizeLinear (t, s, z) td = DequantizeLinear (tq, s, z) y = Tanh (td)
}"""
"""A convolution in int8, and a pair of Q and DQ around ops that have no int8 kernel."""


def save_pairs_around_floats(folder: Path) -> Path:
    weights = {"s": np.float32(0.05), "z": np.uint8(128), "w": np.full((4, 4, 3, 3), 3, np.int8), "k": np.float32(0.01)}
    ir.save(from_text(PAIRS_AROUND_FLOATS, **weights), folder / "net.onnx")
    return folder / "net.onnx"


def optimized_ops(model: ir.Model, folder: Path, *, fuse: bool = True) -> list[str]:
    """Return the ops that ONNX Runtime makes of `model`; without `fuse` it only adds the casts that kernels need."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]
