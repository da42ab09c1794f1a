"""A small classifier, for tests that need a whole model and do not care which."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from sample_models import from_text

CLASSIFIER = """
<ir_version: 10, opset_import: ["": 18]>
classifier (float[N, 8] x, float[8, 64] w1, float[64, 4] w2) => (float[N, 4] logits) {
    hidden = MatMul (x, w1)
    same = Identity (hidden)
    positive = Relu (same)
    logits = MatMul (positive, w2)
}
"""


def classifier(width: int = 64) -> ir.Model:
    """Return a small classifier with an Identity that is of no use."""
    generator = np.random.default_rng(0)
    weights = {
        "w1": generator.standard_normal((8, width), np.float32),
        "w2": generator.standard_normal((width, 4), np.float32),
    }
    return from_text(CLASSIFIER.replace("64", str(width)), **weights)
