"""Adds to the biases of contractions what channels that go have added so far."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxslim.analysis.contraction import Contraction, add_bias
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
        Whether there was a bias to add to, or to be made.
    """
    axis = read.output_axis
    labels = None if axis is None else coupling.of(read.node.outputs[0], axis)
    return add_bias(editor, read, shift, kept=None if labels is None else ~gone[labels])
