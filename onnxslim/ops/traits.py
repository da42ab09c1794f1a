"""Traits of ops: what holds for every node of an op, whatever its shapes and attributes. Declared in `ops.axes`."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from onnxslim.model.constants import Operation
from onnxslim.ops.signatures import KIND, OpName, op_name, table_text


class Trait(enum.Enum):
    """A property of an op; the value is its name in `ops.axes`. Each is proved against ONNX Runtime by a test."""

    ELEMENTWISE = "elementwise"
    """An element of the result depends on the elements at its own index alone, the operands broadcast."""
    BROADCASTING = "broadcasting"
    """Elementwise, and the result is as large as all operands broadcast against each other."""
    ADDS = "adds"
    """The result is the sum of the operands."""
    AFFINE = "affine"
    """With constants as its other operands it is linear in the first, up to a constant."""
    COMPOSES = "composes"
    """Two in a row, with weights and nothing else, are one whose weight is the product of theirs."""
    GENERAL_PRODUCT = "general product"
    """alpha times the product of two matrices, transposed where transA and transB say so, and beta times a summand."""
    IGNORES_SHIFTS = "ignores shifts"
    """A number that is added along `axis` changes nothing."""
    COMMUTATIVE = "commutative"
    """Two operands may be swapped."""
    MOVEMENT = "movement"
    """Each element of the results is an element of the first input."""
    PERMUTES = "permutes"
    """The result is the input with its axes in another order."""
    RESHAPES = "reshapes"
    """The result has the elements of the first input, in the same order, in another shape."""
    PARTS = "parts"
    """The results, one behind the other along an axis, are the first input."""
    SLICES = "slices"
    """The result is every n-th place of some axes of the first input, from a start to an end."""
    WIDENS = "widens"
    """The result is the first input, broadcast to a shape."""
    PADS = "pads"
    """The result is the first input with a border."""
    FILLS = "fills"
    """The result holds one number everywhere, which is an attribute."""
    RESCALES = "rescales"
    """The result is the first input, an image, in another size."""
    REDUCES = "reduces"
    """The result has one number in the place of all that lie along some axes."""
    NORMALIZES = "normalizes"
    """An element of the result depends on the elements along some axes; the shape stays."""
    REARRANGEMENT = "rearrangement"
    """Each element of the first input is one element of the result."""
    JOINING = "joining"
    """Each element of the result is an element of an input, whichever."""
    KEEPS_ZERO = "keeps zero"
    """Zeros as first input make zeros, whatever the other inputs are."""
    KEEPS_CONSTANT = "keeps constant"
    """One number everywhere in the first input is that number everywhere in the result: elements are averaged."""
    HOMOGENEOUS = "homogeneous"
    """A positive factor on the first operand is a factor on the result, whatever the others are, and each index has its
    own where the axes say that indices go together. What the op fills in by itself must be 0."""
    JOINTLY_HOMOGENEOUS = "jointly homogeneous"
    """A positive factor on all operands is a factor on the result."""
    NORMALIZES_AND_SCALES = "normalizes and scales"
    """What is normalised is multiplied by an operand ``scale``, and an operand ``b`` is added where there is one."""
    ABSORBS_ZERO = "absorbs zero"
    """A zero makes a zero, whatever finite number the other operand holds."""
    CARRIES = "carries"
    """Some elements of the first input are elements of the result, as numbers."""
    CONVERTS = "converts"
    """The elements get another type."""
    AVERAGES = "averages"
    """Each element of the result is a mean of elements of the input."""
    IDENTITY = "identity"
    """The result is the input."""
    IDENTITY_AT_EQUAL_SHAPE = "identity at equal shape"
    """The result is the first input wherever it has the same shape, but for images that are resized by another factor
    than 1, and cuts that go backwards."""
    RECTIFIES = "rectifies"
    """Negative elements become 0, and the others stay as they are."""
    CLAMPS = "clamps"
    """Elements below the second input become it, and elements above the third; either may be missing."""
    TAKES_SLICES = "takes slices"
    """The result is slices of the first input along `axis`, those that the second input lists."""
    DISTRIBUTION = "distribution"
    """The elements along an axis are a distribution: they sum to one, or their exponentials do."""
    LOGISTIC = "logistic"
    """Each element of the result is a probability by itself."""
    LAYER_NORMALIZATION = "layer normalization"
    """The last axes have mean 0 and variance 1, before scale and shift."""
    LARGEST = "largest"
    """The result holds the indices of the largest elements along an axis."""
    RANDOM = "random"
    """Two runs may differ."""
    LISTS_SIZES = "lists sizes"
    """The result is the shape of the input, or a run of it."""
    COUNTS_ELEMENTS = "counts elements"
    """The result is how many elements the input has."""
    RECURRENT = "recurrent"
    """A recurrence along time, which begins with zeros where the initial states, inputs 5 and 6, are left out."""
    INTEGER_DIVISION = "integer division"
    """Integers may end the process (SIGFPE): the smallest one by -1, and any by 0 in older versions of ONNX Runtime."""
    QUANTIZES = "quantizes"
    """Real numbers become integers, by a scale and a zero point that are inputs."""
    DEQUANTIZES = "dequantizes"
    """Integers become real numbers, by a scale and a zero point that are inputs."""
    SIZED_BY_VALUES = "sized by values"
    """How large the result is depends on the elements of inputs, not on their shapes alone."""

    @functools.cached_property
    def ops(self) -> frozenset[OpName]:
        """The ops, (domain, op type), that have it."""
        return _declared()[self.value]


_LINE = re.compile(r"trait (?P<trait>[a-z ]+):\s+(?P<ops>.+)$")


@functools.cache
def _declared() -> Mapping[str, frozenset[OpName]]:
    lines = [line.partition("#")[0].strip() for line in table_text().splitlines()]
    kinds: dict[str, list[str]] = {}
    for kind in filter(None, map(KIND.match, lines)):
        kinds.setdefault(kind["kind"], []).extend(kind["ops"].split())
    declared: dict[str, set[OpName]] = {}
    for line in filter(None, map(_LINE.match, lines)):
        for word in line["ops"].split():
            declared.setdefault(line["trait"], set()).update(map(op_name, kinds[word] if word.islower() else [word]))
    return {trait: frozenset(ops) for trait, ops in declared.items()}


def has(node: Operation, trait: Trait) -> bool:
    """Whether the op of `node` has a trait."""
    return (node.domain, node.op_type) in trait.ops


def having(graphs: Iterable[ir.Graph], *traits: Trait) -> Iterator[ir.Node]:
    """Yield the nodes of graphs whose op has one of some traits; a graph may be changed while its nodes are given."""
    ops = frozenset().union(*(trait.ops for trait in traits))
    for graph in graphs:
        yield from [node for node in graph if (node.domain, node.op_type) in ops]
