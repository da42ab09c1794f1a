"""Why weights are not distilled, or stay as they were."""

from __future__ import annotations

from onnxslim.diagnostic import Code


class DistillCode(Code):
    """Why a model, or a weight, stays as it is."""

    SYNTHETIC = "there are no samples, and of random inputs nothing is learned: give --data"
    NOTHING_TRAINED = "it has no weights that could be trained"
    NO_OUTPUT = "none of its outputs is a tensor of real numbers that the original gives as well"
    NO_BETTER = "the loss on the samples that were set aside did not get smaller"
    DIVERGED = "the loss ran away: a smaller rate= may do"
    FEW_SAMPLES = "{0} samples do not fill a batch of {1} beside those that are set aside"
