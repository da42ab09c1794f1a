"""A small detector as YOLOv8 is exported: boxes in pixels and scores of classes in one tensor, and it does detect.

Each cell of 8 x 8 pixels tells the colour that it sees: class 0 is red, class 1 green. Boxes are a centre and a size in
pixels of an image of 640, made from offsets times the stride.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from sample_models import from_text

SIDE, CELLS, STRIDE = 64, 8, 80.0
CLASSES = 2

TEXT = f"""<ir_version: 9, opset_import: ["" : 17]>
g (float[N,3,{SIDE},{SIDE}] images) => (float[N,{CELLS * CELLS},{4 + CLASSES}] output) {{
    stem = Conv <strides = [8, 8]> (images, stem_w, stem_b)  seen = Relu (stem)
    mixed = Conv (seen, mix_w, mix_b)  body = Relu (mixed)
    offsets = Conv (body, box_w, box_b)  boxes = Mul (offsets, stride)
    logits = Conv (body, class_w, class_b)  scores = Sigmoid (logits)
    head = Concat <axis = 1> (boxes, scores)
    flat = Reshape (head, flat_shape)
    output = Transpose <perm = [0, 2, 1]> (flat)
}}"""


def detector(gain: float = 12.0) -> ir.Model:
    """Return the model; `gain` is how steeply its logits rise with the colour."""
    eye = np.eye(3, dtype=np.float32)
    stem = np.repeat(eye, 64, axis=1).reshape(3, 3, 8, 8) / 64
    generator = np.random.default_rng(7)
    mix = np.concatenate([eye, generator.uniform(0, 0.3, (5, 3)).astype(np.float32)])[:, :, None, None]
    box = np.zeros((4, 8, 1, 1), np.float32)
    box[:, 2] = 7.0  # where a thing lies and how large it is shows in its blue
    box[2:, 2] = 2.0
    classes = np.zeros((CLASSES, 8, 1, 1), np.float32)
    classes[0, 0] = classes[1, 1] = gain
    return from_text(
        TEXT,
        stem_w=stem.astype(np.float32),
        stem_b=np.zeros(3, np.float32),
        mix_w=mix,
        mix_b=np.zeros(8, np.float32),
        box_w=box,
        box_b=np.full(4, 0.5, np.float32),
        stride=np.float32(STRIDE),
        class_w=classes,
        class_b=np.full(CLASSES, -0.5 * gain, np.float32),
        flat_shape=np.array([0, 0, -1], np.int64),
    )


def photos(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return images with red and green squares on a dark ground, shape [count, 3, SIDE, SIDE]."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(0, 0.2, (count, 3, SIDE, SIDE)).astype(np.float32)
    for image in images:
        for _ in range(4):
            row, column = 8 * generator.integers(0, CELLS, 2)
            image[:, row : row + 8, column : column + 8] += generator.uniform(0, 0.8, 3)[:, None, None]
    return np.minimum(images, 1)


def detections(output: npt.NDArray[np.float32]) -> list[set[tuple[int, int]]]:
    """Return for each image the (cell, class) whose score is over a half."""
    return [{(int(cell), int(kind)) for cell, kind in np.argwhere(each[:, 4:] > 0.5)} for each in output]
