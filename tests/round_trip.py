"""Models that are written, opened and saved again, and run by ONNX Runtime alone."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnx.parser
import onnxruntime

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import open_model, save_model


def write(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def run(path: pathlib.Path, **feeds: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


def there_and_back(path: pathlib.Path) -> pathlib.Path:
    model = open_model(path, inline=False)
    infer_shapes(model)
    result = path.with_name("again.onnx")
    save_model(model, result)
    return result
