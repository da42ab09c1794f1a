"""Why the pass leaves models alone."""

from __future__ import annotations

from onnxslim.diagnostic import Code


class ReconstructCode(Code):
    """Reasons, as `onnxslim.diagnostic` has them."""

    NOT_QUANTIZED = "it has no weights that are stored as integers: quant makes some"
    NO_FLOAT_FORM = (
        "it came as it is, and the real numbers that its integers stand for are not known: quant must run before"
    )
