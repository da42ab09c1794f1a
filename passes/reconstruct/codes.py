"""Why the pass leaves models and blocks alone."""

from __future__ import annotations

from onnxslim.diagnostic import Code


class ReconstructCode(Code):
    """Reasons, as `onnxslim.diagnostic` has them."""

    NOT_QUANTIZED = "it has no weights that are stored as integers: quant makes some"
    NO_FLOAT_FORM = (
        "it came as it is, and the real numbers that its integers stand for are not known: quant must run before"
    )
    NOT_ASKED = "none of its weights is asked for"
    NO_BETTER = "its error on the samples that were set aside did not get smaller: {0}"
    NO_BETTER_OUTPUTS = "blocks are nearer to the float model, and the outputs are not: {0}"
    DIVERGED = "the loss ran away: a smaller rate= may do"
    EXACT = "it makes what the float model makes"
    NOT_BY_SAMPLE = "{0} has no row for each sample"
    NO_TARGET = "the float model has no {0} of the same shape"
    NOT_DIFFERENTIABLE = "{0}"
