"""Opens models, brings them into canonical form, and saves them atomically: the names that other packages use."""

from onnxslim.model.compressed import is_compressed, load
from onnxslim.model.form import FORM, OriginalForm, canonicalize, release_constants, restored
from onnxslim.model.opening import (
    NEWEST_OPSET,
    OLDEST_NUMPY_OPSET,
    OLDEST_OPSET,
    download_bytes,
    file_bytes,
    open_model,
)
from onnxslim.model.saving import SINGLE_FILE_LIMIT, save_model, stage_model, weight_files, written_file
from onnxslim.model.weights import external_tensors, weight_bytes
from onnxslim.model.writing import Placement, check_place, followed, placing, writing

__all__ = [
    "FORM",
    "NEWEST_OPSET",
    "OLDEST_NUMPY_OPSET",
    "OLDEST_OPSET",
    "SINGLE_FILE_LIMIT",
    "OriginalForm",
    "Placement",
    "canonicalize",
    "check_place",
    "download_bytes",
    "external_tensors",
    "file_bytes",
    "followed",
    "is_compressed",
    "load",
    "open_model",
    "placing",
    "release_constants",
    "restored",
    "save_model",
    "stage_model",
    "weight_bytes",
    "weight_files",
    "writing",
    "written_file",
]
