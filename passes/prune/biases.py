"""Adds to the biases of contractions what channels that go have added so far."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.labels import Mask
from onnxslim.analysis.linear_layer import Contraction, add_bias
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
    labels = _output_labels(coupling, read)
    return add_bias(editor, read, shift, kept=None if labels is None else ~gone[labels])


def _output_labels(coupling: Coupling, read: Contraction) -> npt.NDArray[np.int64] | None:
    """Return the labels along the axis of the output that the bias belongs to."""
    output = read.node.outputs[0]
    axes = read.fitted.signature.outputs[0].axes(len(output.shape or ()))
    axis = next((at for at, (dimension, _) in enumerate(axes) if dimension.factors == read.result), None)
    return None if axis is None else coupling.of(output, axis)
