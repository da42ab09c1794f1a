"""Samples: calibration and validation data, streamed from wherever they are, fitted to a model's inputs."""

from onnxslim.data.opening import open_samples
from onnxslim.data.samples import Batch, Samples
from onnxslim.data.synthetic import synthetic_samples

__all__ = ["Batch", "Samples", "open_samples", "synthetic_samples"]
