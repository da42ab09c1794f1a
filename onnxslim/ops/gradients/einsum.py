"""The gradient of Einsum, which is an Einsum: the result takes the place of the operand, and the operand that of it.

What an operand says twice (``ii``) is a diagonal: its gradient is multiplied by an identity matrix. A letter that
stands in one operand only was summed away: its gradient is repeated, by a vector of ones.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim.ops.einsum import einsum_row
from onnxslim.ops.gradient import Declined, Gradient, GradientSite
from onnxslim.ops.gradients.movement import Gradients
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import Operand, OpName

Term = list[str]


def einsum(site: GradientSite) -> Gradients:
    """Einsum: for each operand another one, of the gradient and the other operands."""
    row = einsum_row(("", "Einsum"), read(site, "equation"), len(site.node.inputs))
    if row is None:
        raise Declined(f"its equation does not read: {read(site, 'equation')}")
    letters = iter(string.ascii_letters)
    names: dict[tuple[str, int], str] = {}
    terms = [_named(term, len(site.shape(index)), names, letters) for index, term in enumerate(row.inputs)]
    result = _named(row.outputs[0], len(site.result_shape()), names, letters)
    if len(set(result)) < len(result):
        raise Declined("its result names a letter twice")
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        for letter, size in zip(term, site.shape(index), strict=True):
            sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter]
    return {index: _of_operand(site, index, terms, result, sizes, letters) for index in sorted(site.wanted)}


def _named(operand: Operand, rank: int, names: dict[tuple[str, int], str], letters: Iterator[str]) -> Term:
    """Return the letters of an operand, those of an ellipsis, too: new ones, the same for the same factor and place."""
    term = []
    for dimension, place in operand.axes(rank):
        key = dimension.factors[0], place
        if key not in names:
            names[key] = _next(letters)
        term.append(names[key])
    return term


def _next(letters: Iterator[str]) -> str:
    letter = next(letters, None)
    if letter is None:
        raise Declined(f"it has more axes than there are letters, {len(string.ascii_letters)}")
    return letter


def _of_operand(
    site: GradientSite,
    index: int,
    terms: Sequence[Term],
    result: Term,
    sizes: Mapping[str, int],
    letters: Iterator[str],
) -> ir.Value:
    shape = site.shape(index)
    # An axis of size 1 that was broadcast: its letter is summed over, and the axis comes back by a Reshape.
    own = [letter for letter, size in zip(terms[index], shape, strict=True) if size == sizes[letter]]
    inputs, read_terms = [site.incoming()], [result]
    for other, term in enumerate(terms):
        if other != index:
            value = site.operand(other)
            kept = [letter for letter, size in zip(term, site.shape(other), strict=True) if size == sizes[letter]]
            inputs.append(site.reshape(value, [sizes[letter] for letter in kept]))
            read_terms.append(kept)
    target: Term = []
    for letter in own:
        if letter in target:
            second = _next(letters)
            side = sizes[letter]
            inputs.append(site.op("EyeLike", site.filled((side, side), 0, site.dtype)))
            read_terms.append([letter, second])
            target.append(second)
        else:
            target.append(letter)
    for letter in dict.fromkeys(own):
        if not any(letter in term for term in read_terms):
            inputs.append(site.filled((sizes[letter],), 1, site.dtype))
            read_terms.append([letter])
    equation = ",".join("".join(term) for term in read_terms) + "->" + "".join(target)
    return site.reshape(site.op("Einsum", *inputs, equation=equation), shape)


GRADIENTS: Mapping[OpName, Gradient] = {("", "Einsum"): einsum}
