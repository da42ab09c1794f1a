"""Trains a pivoted product of matrices as two plain factors, and gives it back in its own form.

The pivoted form has y = [h, h C] for h = x F: some outputs, and the others as sums of them. It saves parameters, and
trains badly: where outputs that are kept are nearly sums of each other, C is large (up to 346 in MiniLM), and a step
that suits the others ruins what is made of them. The same function is (x A) B with A = F T and B = T^-1 [I, C] for any
invertible T. T is chosen so that A'A and BB' are one diagonal matrix, as if both came of a singular value
decomposition. What is trained has the form of a product of that rank again: with B = [L, R] it is F = A L, C = L^-1 R.

Source of the form: Zhao, Zhang, Cannistraci, "Pivoting Factorization", arXiv 2501.19090.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.bias import Bias
from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.linear_layer import LinearLayer, linear_layers
from onnxslim.arrays import Array, Floats
from onnxslim.model.constants import stored_array
from onnxslim.model.edit import Editor, overwrite, take_over
from onnxslim.ops.families.window import Window
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has


@dataclasses.dataclass(frozen=True)
class PivotedProduct:
    """Two weights of which the second makes more outputs of those of the first, and both are outputs."""

    first: ir.Value
    """Shape [columns, r] as a matrix."""
    second: ir.Value
    """Shape [r, others] as a matrix."""
    first_axis: int
    """The axis of the first weight that holds the r outputs."""
    second_axis: int
    """The axis of the second weight that holds the other outputs; one that is left holds the r channels."""
    biases: tuple[tuple[ir.Value, ir.Value], ...]
    """Those of both nodes, for each pair of nodes that has some."""
    between: frozenset[str]
    """Names of what the nodes give: values that two plain factors do not make."""
    concats: tuple[ir.Node, ...]
    """One for each pair of nodes."""

    @property
    def names(self) -> frozenset[str]:
        """Names of the initializers."""
        biases = (value for pair in self.biases for value in pair)
        return frozenset(value.name or "" for value in (self.first, self.second, *biases))

    def to_plain(self, editor: Editor) -> None:
        """Become two plain factors, in place: initializers keep their names, those of the second nodes grow.

        What is between is named anew: it is not what the pivoted form has there.
        """
        stored = stored_array(self.first)
        first, second = _outputs_last(stored, self.first_axis), self._second_matrix(stored_array(self.second))
        mixed, factor = _plain(first.reshape(-1, len(second)), np.concatenate([np.eye(len(second)), second], axis=1))
        self._store(self.first, _as_stored(mixed.reshape(first.shape), self.first_axis))
        for own, others in self.biases:
            bias = stored_array(own).astype(np.float64).ravel()
            self._store(others, np.concatenate([bias, stored_array(others).ravel() + bias @ second]))
            self._store(own, np.zeros_like(bias))
        self._store(self.second, self._as_second(factor, stored_array(self.second)))
        for concat in self.concats:
            between, made = concat.inputs
            assert between is not None
            assert made is not None
            between.name = editor.name(f"{between.name}_plain")
            take_over(made, concat.outputs[0])
            assert concat.graph is not None
            concat.graph.remove(concat, safe=True)

    def to_pivoted(self, trained: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return what the initializers are in the pivoted form, each of the shape that it has there.

        Args:
            trained: What they are as two plain factors, all of `names` among them. Where the outputs that are kept
                have become sums of each other, the others are the nearest.
        """
        factor = self._second_matrix(trained[self.second.name or ""])
        rank = len(factor)
        kept, others = factor[:, :rank], factor[:, rank:]
        second = np.asarray(np.linalg.lstsq(kept, others, rcond=None)[0], np.float64)
        first = _outputs_last(trained[self.first.name or ""], self.first_axis) @ kept
        result = {
            self.first.name or "": _as_stored(first, self.first_axis),
            self.second.name or "": self._as_second(second, stored_array(self.second)),
        }
        for own, behind in self.biases:
            bias = trained[own.name or ""].astype(np.float64).ravel() @ factor + trained[behind.name or ""].ravel()
            result[own.name or ""] = bias[:rank]
            result[behind.name or ""] = bias[rank:] - bias[:rank] @ second
        return result

    def _second_matrix(self, stored: Array) -> Floats:
        """Return the second weight as a matrix, shape [r, its outputs]."""
        matrix = _outputs_last(stored, self.second_axis)
        return matrix.reshape(-1, matrix.shape[-1])

    def _as_second(self, matrix: Floats, like: Array) -> Array:
        """Return a matrix of shape [r, outputs] as the second weight is stored, however many outputs it has."""
        shape = [size for axis, size in enumerate(like.shape) if axis != self.second_axis]
        return np.moveaxis(matrix.reshape(*shape, matrix.shape[1]), -1, self.second_axis)

    @staticmethod
    def _store(value: ir.Value, array: Array) -> None:
        tensor = value.const_value
        assert tensor is not None
        value.const_value = ir.tensor(np.ascontiguousarray(array, tensor.dtype.numpy()), name=value.name)
        value.shape = ir.Shape(array.shape)


def with_plain_factors(
    model: ir.Model, trained: Collection[str], fixed: Collection[str] = (), compared: Collection[str] = ()
) -> tuple[ir.Model, list[PivotedProduct]]:
    """Return a model whose pivoted products are two plain factors, and these products as they are in `model`.

    Args:
        model: With shapes; not changed, and returned itself where it has no such product.
        trained: Names of the initializers that are trained; those of a product are all among them.
        fixed: Names of those of which some elements stay as they are; none of a product is among them.
        compared: Names of values that must be there: what lies in a product is not among them.
    """
    products = _products(model.graph, trained, fixed, compared)
    if not products:
        return model, []
    opened = model.clone()
    editor = Editor(opened)
    for product in _products(opened.graph, trained, fixed, compared):
        product.to_plain(editor)
    return opened, products


def write_back(model: ir.Model, trained: Mapping[str, Array], products: Iterable[PivotedProduct]) -> None:
    """Give a model the weights that were trained, in place, in the form in which it has them.

    Args:
        model: The model.
        trained: Weights by their names, of the model `with_plain_factors`; those that no output depends on are missing.
        products: The products that it made plain.
    """
    learnt = dict(trained)
    for product in products:
        if product.names <= trained.keys():
            learnt |= product.to_pivoted(trained)
        else:  # no output depends on it
            learnt = {name: array for name, array in learnt.items() if name not in product.names}
    for name, array in learnt.items():
        overwrite(model.graph.initializers[name], array)


def _products(
    graph: ir.Graph, trained: Collection[str], fixed: Collection[str], compared: Collection[str]
) -> list[PivotedProduct]:
    layers = {layer.node: layer for layer in linear_layers(graph)}
    products = [_product(layer, layers) for layer in layers.values()]
    wanted, kept, seen = set(trained), set(fixed), set(compared)
    return [
        each
        for each in products
        if each is not None and each.names <= wanted and not each.names & kept and not each.between & seen
    ]


def _product(first: LinearLayer, layers: Mapping[ir.Node, LinearLayer]) -> PivotedProduct | None:
    """Return the product that a layer is the first half of."""
    pairs = [_behind(use) for use in first.uses]
    second = layers.get(pairs[0][0]) if pairs[0] is not None else None
    if second is None or len(first.weight.uses()) != len(pairs):
        return None
    behind = {use.node: use for use in second.uses}
    concats, biases, between = [], [], set()
    for use, pair in zip(first.uses, pairs, strict=True):
        if pair is None or pair[0] not in behind:
            return None
        other = behind[pair[0]]
        places = [each.own_bias for each in (use, other)]
        values = [place.value for place in places if place is not None and place.free and place.value is not None]
        if not _fits(use, other) or len(values) == 1 or len(values) != sum(map(_is_biased, places)):
            return None
        if values:
            biases.append((values[0], values[1]))
        concats.append(pair[1])
        between |= {each.node.outputs[0].name or "" for each in (use, other)}
    axes = first.first.weight_axis, second.first.weight_axis
    if len(second.weight.uses()) != len(pairs) or axes[0] is None or axes[1] is None:
        return None
    return PivotedProduct(
        first.weight, second.weight, axes[0], axes[1], tuple(biases), frozenset(between), tuple(concats)
    )


def _behind(use: Contraction) -> tuple[ir.Node, ir.Node] | None:
    """Return the node that makes outputs of those of another one, and the one that puts both side by side."""
    made, axis = use.node.outputs[0], use.output_axis
    readers = list(made.consumers())
    concats = [node for node in readers if has(node, Trait.JOINING)]
    if len(readers) != 2 or len(concats) != 1 or axis is None:
        return None
    (other,) = (node for node in readers if node not in concats)
    (concat,) = concats
    if [*concat.inputs] != [made, other.outputs[0]] or [*other.outputs[0].consumers()] != [concat]:
        return None
    given_out = made.is_graph_output() or other.outputs[0].is_graph_output()
    if given_out or concat.graph is not use.node.graph or other.graph is not use.node.graph:
        return None
    along = attribute(concat, "axis")
    return (other, concat) if isinstance(along, int) and along % len(made.shape or ()) == axis else None


def _fits(use: Contraction, other: Contraction) -> bool:
    """Whether each output of `other` is a sum over all of those of `use`, at the same place."""
    if not (_is_matrix(use) and _is_matrix(other) and other.data is use.node.outputs[0]):
        return False
    if not other.data_axis == use.output_axis == other.output_axis:
        return False
    window = other.window
    return other.columns == use.outputs and (window is None or _is_of_one_place(window))


def _is_of_one_place(window: Window) -> bool:
    """Whether a window of one place lies at each place in turn."""
    return {*window.strides} == {1} and window.fixed_pads is not None and not any(map(any, window.fixed_pads))


def _is_matrix(use: Contraction) -> bool:
    """Whether outputs may be mixed by mixing those of the weight."""
    return 0 not in use.sizes and use.plain and use.groups == 1 and not use.transposed


def _is_biased(place: Bias | None) -> bool:
    return place is not None and place.value is not None


def _plain(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Return factors A [rows, r], B [r, columns] of the product of two: A'A and BB' are the same diagonal matrix.

    Of components that the product does not have A is as good as zero.
    """
    rows, lower = np.linalg.qr(second.T)  # second = lower' rows'
    left = first @ lower.T
    values, vectors = np.linalg.eigh(left.T @ left)
    size = np.sqrt(np.sqrt(np.maximum(values, values[-1] * np.finfo(np.float64).eps)))[::-1]
    size = np.where(size > 0, size, 1.0)
    vectors = vectors[:, ::-1]
    return left @ vectors / size, size[:, None] * (vectors.T @ rows.T)


def _outputs_last(stored: Array, axis: int) -> Floats:
    """Return a weight in float64, its outputs along the last axis."""
    return np.moveaxis(stored, axis, -1).astype(np.float64)


def _as_stored(weight: Floats, axis: int) -> Floats:
    """Return a weight whose outputs are along the last axis, as it is stored."""
    return np.moveaxis(weight, -1, axis)
