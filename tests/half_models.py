"""Small models for the pass `half`: made, converted, and run as they are or with every value rounded."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxslim.passes.half import Half
from onnxslim.passes.half.simulation import rounded
from sample_models import from_text
from story import make_context

from onnxslim.model import canonicalize
from onnxslim.pipeline.interface import NoteKind
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

CPU = Target("cpu", "a processor", "avx2", 1)
CUDA = "cuda"
HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT

NET = """<ir_version: 9, opset_import: ["" : 17]>
g (float[N,8] x) => (float[N,4] y) {
    h = MatMul (x, w)
    r = Relu (h)
    y = MatMul (r, v)
}"""


def drawn(*shape, scale=1.0):
    return (np.random.default_rng(len(shape)).normal(size=shape) * scale).astype(np.float32)


def net(**weights):
    return from_text(NET, **{"w": drawn(8, 16), "v": drawn(16, 4), **weights})


def convert(model, feeds, target="auto", **options):
    """Runs the pass on a model in canonical form."""
    canonicalize(model)
    return Half(target=target, **options).run(model, make_context(model, dict(feeds), target=CPU))


def run(model, feeds):
    return Session.of(model, CPU).run(dict(feeds))


def run_rounded(model, feeds):
    """Runs a model in half precision as a device does that rounds every value."""
    return run(rounded(model), feeds)


def left(change):
    return {note.subject: note.code for note in change.notes if note.kind is NoteKind.LEFT_ALONE}


def dtypes(model):
    return {value.name: value.dtype for node in model.graph for value in node.outputs}


def sqnr(reference, found):
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - found.astype(np.float32)).sum())


X = drawn(4, 8)
