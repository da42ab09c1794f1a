"""Opens a model, brings it into canonical form, and saves it whole or not at all.

Each step is a file: `opening`, `form`, `weights`, `saving`, `writing`. What other packages use is named here.
"""

from onnxslim.model.form import FORM, Form, canonicalize, release_constants, restored
from onnxslim.model.opening import NEWEST_OPSET, OLDEST_NUMPY_OPSET, OLDEST_OPSET, file_bytes, open_model
from onnxslim.model.saving import SINGLE_FILE_LIMIT, save_model, saving_model
from onnxslim.model.weights import external_tensors, weight_bytes
from onnxslim.model.writing import writing_beside

__all__ = [
    "FORM",
    "NEWEST_OPSET",
    "OLDEST_NUMPY_OPSET",
    "OLDEST_OPSET",
    "SINGLE_FILE_LIMIT",
    "Form",
    "canonicalize",
    "external_tensors",
    "file_bytes",
    "open_model",
    "release_constants",
    "restored",
    "save_model",
    "saving_model",
    "weight_bytes",
    "writing_beside",
]
