"""BatchNormalization in training: data are normalised by the statistics of their batch, which the stored ones follow.

Source: S. Ioffe and C. Szegedy, Batch Normalization (2015), section 3. What a file for inference holds are frozen
statistics; with drawn weights they say nothing, and a network would be trained without any normalisation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.data import Samples
from onnxslim.model.edit import Editor
from onnxslim.observe.probe import run_on
from onnxslim.ops.binding import input_index
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, having
from onnxslim.runtime.session import OpenSession

STATISTICS = ("mean", "var")
"""The operands that hold what was seen before, and in this order the outputs 1 and 2, what they become."""
TRAINING_MODE = "training_mode"
MOMENTUM = "momentum"
AT_ONCE = 64
"""Samples of a batch whose statistics are taken together."""


def stored_statistics(graph: ir.Graph) -> list[str]:
    """Return the names of initializers that are the means and variances of one BatchNormalization each."""
    return [name for _, names in _normalizations(graph) for name in names]


def normalize_by_batch(model: ir.Model, names: Collection[str] | None = None) -> Mapping[str, str]:
    """Let BatchNormalizations normalise by what a batch holds, in place; operator set 14 or a newer one.

    Args:
        model: The model.
        names: Those of which the mean and the variance are called so, initializers or inputs; None: all of which both
            are stored for them alone.

    Returns:
        The value that each mean and variance becomes, by its name.
    """
    found: dict[str, str] = {}
    editor = Editor(model)
    for node in list(having([model.graph], Trait.NORMALIZES_AND_SCALES)):
        operands = _statistics(node)
        if not operands or (names is None and not _stored(*operands)):
            continue
        known = [value.name or "" for value in operands]
        if names is not None and not set(known) <= set(names):
            continue
        node.attributes[TRAINING_MODE] = ir.AttrInt64(TRAINING_MODE, 1)
        node.resize_outputs(1 + len(known))
        for output, name in zip(node.outputs[1:], known, strict=True):
            output.name = found[name] = editor.name(f"{name}.next")
    return found


def normalize_by_stored(model: ir.Model) -> None:
    """Let BatchNormalizations normalise by the statistics that are stored, in place, as for inference."""
    for node in having([model.graph], Trait.NORMALIZES_AND_SCALES):
        if attribute(node, TRAINING_MODE) and not any(output.uses() for output in node.outputs[1:]):
            del node.attributes[TRAINING_MODE]
            node.resize_outputs(1)


def estimate_statistics(model: ir.Model, samples: Samples, open_session: OpenSession) -> Mapping[str, Array]:
    """Return what the stored means and variances would be if they were those of some samples, by their names.

    Each batch of samples is normalised by its own, as in training, and the means over batches are taken: those of a
    normalization fit what those before it give.

    Args:
        model: With BatchNormalizations, of operator set 14 or a newer one; not changed.
        samples: Read once.
        open_session: Opens a model on the target.

    Raises:
        RunError: The model does not run.
    """
    copy = model.clone()
    following = normalize_by_batch(copy)
    for node in having([copy.graph], Trait.NORMALIZES_AND_SCALES):
        if attribute(node, TRAINING_MODE):
            node.attributes[MOMENTUM] = ir.AttrFloat32(MOMENTUM, 0.0)
    names = set(following.values())
    copy.graph.outputs[:] = [value for node in copy.graph for value in node.outputs if value.name in names]
    for name, output in following.items():
        (value,) = (value for value in copy.graph.outputs if value.name == output)
        value.type, value.shape = copy.graph.initializers[name].type, copy.graph.initializers[name].shape
    session = open_session(copy)
    total: dict[str, Array] = {}
    count = 0
    for batch in samples.batches(AT_ONCE):
        found = run_on(session, batch.feeds)
        count += batch.count
        for name, output in following.items():
            total[name] = total.get(name, 0) + batch.count * np.asarray(found[output], np.float64)
    return {name: array / count for name, array in total.items()}


def _normalizations(graph: ir.Graph) -> Iterator[tuple[ir.Node, tuple[str, ...]]]:
    for node in having([graph], Trait.NORMALIZES_AND_SCALES):
        operands = _statistics(node)
        if operands and _stored(*operands):
            yield node, tuple(value.name or "" for value in operands)


def _statistics(node: ir.Node) -> tuple[ir.Value, ...]:
    """Return the mean and the variance that a node reads; nothing for one that computes them itself."""
    indices = [input_index(node, name) for name in STATISTICS]
    values = [node.inputs[index] for index in indices if index is not None and index < len(node.inputs)]
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(STATISTICS) else ()


def _stored(*values: ir.Value) -> bool:
    """Whether values are initializers of one node alone."""
    return len(set(values)) == len(values) and all(
        value.is_initializer()
        and not value.is_graph_input()
        and not value.is_graph_output()
        and len({use.node for use in value.uses()}) == 1
        for value in values
    )
