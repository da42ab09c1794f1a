"""Codes of the layers and tables that stay whole."""

from __future__ import annotations

from onnxslim.diagnostic import Code


class LowrankCode(Code):
    """Why a layer, a table or a whole model is not split."""

    NO_LAYER = "no layer can be split"
    NOTHING_PAYS = "no split of a layer pays"

    QUANTIZED = "its weight is quantized"
    OP = "{0} is not split"
    GROUPED = "its channels are grouped: the groups are factors already"
    AUTO_PAD = "its padding depends on the size of the image (auto_pad)"
    LEFT_FACTOR = "its weight is the left factor"
    SCALED = "it scales its result (alpha, beta)"
    WEIGHT_RANK = "its weight has {0} axes"
    WEIGHT_OF_OTHER_OP = "its weight is shared with a node of another kind"
    WEIGHT_IS_OUTPUT = "its weight is an output of the model"
    READ_DIFFERENTLY = "its weight is shared by nodes that read it differently"
    BIAS_COMPUTED = "its bias is not constant"
    BIAS_NO_VECTOR = "its bias is not one number for each output"
    TOO_WIDE = "more than {0} inputs or outputs of one window"
    TOO_SMALL = "too small: {0} x {1}, and smallest is {2}"
    ONE_ROW = "it is one row of numbers: {0} x {1}"
    TABLE_OF_OTHER_OP = "its table is shared with a node of another kind"
    NOT_BY_ROWS = "it is not read row by row"

    NOT_FINITE = "what it gets or gives is not finite{0}"
    KINDS = "kinds leaves out what it may be split into: {0}"
    NOT_TIMED = "its split cannot be timed: {0}"
    NOT_FASTER = "not faster: {0}"
    NOTHING_SAVED = "no split saves parameters{0}"
    RANK_TOO_HIGH = "with {0:.1%} of its rank nothing is saved (with {1:.1%} there is)"
    ENERGY_TOO_HIGH = "no split that saves parameters retains {0:.1%} of its output (at most {1:.1%})"
    BUDGET_MET = "the budget is met without it"
