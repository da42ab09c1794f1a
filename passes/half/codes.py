"""Codes of what half precision leaves alone."""

from __future__ import annotations

from onnxslim.diagnostic import Code


class HalfCode(Code):
    """Why a model, a node or a weight stays in float32."""

    QUANTIZED = "it is quantized: {0}"
    IS_HALF = "it is in half precision already: {0} of its weights"
    NOTHING_FLOAT = "nothing in it is float32"
    NO_ONNX_OPS = "it uses no operators of ONNX itself"
    NOTHING_LARGE = "no float32 weight has {0} numbers or more, and nothing runs in {1}"

    ASKED = "activations=float"
    NO_TABLE = "nobody has said yet which ops {0} runs in {1}"
    TARGET_IN_FLOAT = "{0}"
    BROKEN = "run in half precision, the output {0} breaks: {1}"
    DOES_NOT_RUN = "in half precision it does not run: {0}"
    NOT_OBSERVED = "its ranges cannot be observed: {0}"

    NO_KERNEL = "{0} has no {1} kernel on {2}"
    NO_TYPE = "ONNX has no {0} for {1} at opset {2}"
    NOT_KNOWN = "{0} is no operator that is known here"
    NESTED = "a branch or a body is inside, where no ranges are seen"
    IN_NESTED = "it is in a branch or a body, where no ranges are seen"
    NO_TENSOR = "it reads or makes what is no tensor"
    DIGITS = "{0} needs more digits than {1} has"
    INDICES = "integers or sizes are made of what it makes"
    TOO_LITTLE = "no products are around it: casts would cost more than it gains"

    OVERFLOW = "{0} reaches {1:.3g}, and {2} ends at {3:.3g}"
    SUM_OVERFLOW = "sums inside it reach {0:.3g}, and {1} ends at {2:.3g}"
    UNDERFLOW = "{0} is so small ({1:.1e} on average) that {2} keeps few of its digits"
    SMALL_DIVISOR = "{0} comes down to {1:.1e}, and {2} divides by it or takes its root or logarithm"
    DIFFERENCE = "{0} is a small difference of large numbers, of which {1} keeps too few digits"
    ANGLE = "{0} is an angle of up to {1:.3g}, of which {2} keeps too few digits"
    COUNT = "{0} counts to {1:.3g}, and {2} is exact up to {3:.0f} only"
    NOT_FINITE = "{0} is not finite on the samples"
