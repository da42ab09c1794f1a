"""Samples: calibration and validation data, streamed from their source and fitted to a model's inputs."""

from onnxslim.data.opening import open_samples
from onnxslim.data.samples import Batch, Samples, Subset
from onnxslim.data.synthetic import no_samples, synthetic_samples

__all__ = ["Batch", "Samples", "Subset", "no_samples", "open_samples", "synthetic_samples"]
