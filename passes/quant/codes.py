"""Codes of what quantization leaves in float."""

from __future__ import annotations

from onnxslim.diagnostic import Code


class QuantCode(Code):
    """Why a model or a node stays in float."""

    NO_INT8_KERNELS = "{0}"
    QUANTIZED = "already quantized: {0}; -p dequantize,quant quantizes it anew"
    HALF_PRECISION = "its weights are half precision: quantize the float32 model instead"
    NO_ONNX_OPS = "it uses no operators of ONNX itself"
    NOTHING_QUANTIZABLE = "nothing in it can run in int8{0}"
    NOTHING_CHEAP = "no layer is left that costs the outputs little enough{0}"

    NO_ACTIVATIONS = "{0} takes activations of {1}, not of {2}"
    NO_WEIGHTS = "{0} takes no weights of {1}"

    NO_KERNEL = "{0} has no int8 kernel on {1}"
    KEPT_WIDE = "it stays wide: {0}"
    NESTED = "it lies in a graph of {0}, whose values are not observed"
    NEVER_TAKEN = "it lies in {0}, which no calibration sample takes"
    NO_BRANCH_MODEL = "it lies in {0}, which cannot be quantized by itself: {1}"
    ATTRIBUTE = "its kernel is for {0} = {1}"
    SECOND_OUTPUT = "its int8 kernel has no second output"
    WEIGHT_COMPUTED = "its weight is not constant"
    WEIGHT_RANK = "its weight has {0} axes, the kernel wants {1}"
    WEIGHT_NOT_FINITE = "its weight is not finite"
    WEIGHT_AXIS = "which axis of its weight holds the output channels is not known"
    WEIGHT_OF_OTHER_OP = "its weight is also read by another op"
    WEIGHT_OF_FLOAT_NODE = "its weight is shared with a node that stays float"
    BIAS_COMPUTED = "its bias is not constant"
    BIAS_NO_VECTOR = "its bias is no finite vector"
    CONSTANT_OPERAND = "an operand is a constant tensor"
    INPUT_TYPE = "its input is {0}, not FLOAT"
    RANGE_NOT_FINITE = "its range is not finite{0}"

    NOTHING_DYNAMIC = "{0} has no kernels that quantize activations as they run"
    NO_DYNAMIC_KERNEL = "{0} has no kernel on {1} that quantizes its activations as it runs"
    TOO_SMALL = "{0} elements are fewer than {1}"
    NO_FORMAT = "weights of {0} bits in such blocks cannot be stored for it as {1}"
    NOTHING_STORED = "no weight can be stored as integers"
    LOSES_MOST = "it brings {0:.1%} of what is lost, with {1:.1%} of the weights"

    NEWER_NOT_EXACT = "at opset {0} the outputs would change by {1:.2g} of their energy before they are quantized"

    NOT_SCALABLE = "nothing passes factors of channels on from one weight to the next"
    ALREADY_EQUAL = "equalising them would bring {0:.1%} of the error at most"
    NOT_EXACT = "equalising them would change the outputs by {0:.2g} of their energy before they are quantized"
    NOT_BETTER_EQUAL = "equalised, int8 would cost the outputs {0:+.1%}"

    MODEL_OUTPUT = "it makes an output of the model"
    AMONG_FLOATS = "the tensors around it are float"
    FLOAT_OPERAND = "an operand as large as its sum is float, and would be rounded for it alone"
    SCORES = "it makes scores for the outputs, and 256 levels rank them badly"
    NOTHING_BEHIND = "nothing behind it needs int8"
    COARSE_PART = "its parts differ too much to share a scale: {0} would have {1:.2g} of {2} levels"
    COARSE_SCORES = "{0} makes scores of it, and would see steps of {1:.2g}"
    COARSE_GATE = "its line has {1:.2g} levels of {0}"
    OTHER_GATE = "another op reads {0}, whose line has other ends"
    OPEN_GATE = "{0} is nowhere below zero, where half of the line lies"
    WIDE_GATE = "{0} is narrower than its line, and would have steps {1:.2g} times as wide"
    COSTLY = "{0}it brings {1:.1%} of the error; it makes {2:.1%} of the products"
    EXACT_TOO_DEAR = "it is an image of 8 bits; to hold it exactly a layer must be int8, and a run takes {0:.1%} longer"
    NOT_FASTER = "in int8 it takes {0:.3g} ms at best, and in float {1:.3g} ms: only --goal size makes it int8"
    BUDGET_MISSED = "{0}={1} is not to be had"
    SLOWER_LAYER = "in int8 it takes {0:.3g} ms with its conversions, and in float {1:.3g} ms"
    OF_FLOAT_LAYER = "it belongs to the layer {0}, which stays in float"
