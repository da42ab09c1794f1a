"""Adds to the biases of contractions what channels that go have added so far."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.labels import Mask
from onnxslim.model.edit import Editor


def add_to_bias(
    editor: Editor, coupling: Coupling, read: Contraction, shift: npt.NDArray[np.float64], gone: Mask
) -> bool:
    """Add `shift` to the bias of a contraction.

    Args:
        editor: Of its model.
        coupling: The coupled axes, of before the cut.
        read: The contraction.
        shift: What to add, shape [output channels], before the cut.
        gone: The labels that will be cut. A new bias, which the coupling does not know, is cut here.

    Returns:
        Whether it was done: not where the bias is not `free`.
    """
    bias, axis = read.bias, read.output_axis
    if bias is None or not bias.free or bias.vector is None:
        return False
    labels = None if bias.value is not None or axis is None else coupling.of(read.node.outputs[0], axis)
    bias.write(editor, bias.vector + shift if labels is None else shift[~gone[labels]])
    return True
