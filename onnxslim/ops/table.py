"""All ops by name: what their family says, else what their kind or their row in ops.axes says."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim.ops import families
from onnxslim.ops.binding import BoundSignature, bind
from onnxslim.ops.cut import Cut
from onnxslim.ops.einsum import EINSUM
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.op import Constancy, IndexInto, Ints, Op, Repeated
from onnxslim.ops.parameters import op_of
from onnxslim.ops.relations import FreezeCode, NodeAxes, Relation
from onnxslim.ops.rows import infer_row, relate_row
from onnxslim.ops.signatures import OpName, signatures
from onnxslim.ops.traits import Trait, has


@functools.cache
def ops() -> Mapping[OpName, Op]:
    """Return what the files of `onnxslim.ops.families` say of single ops."""
    return {name: op for module in _families() for name, op in getattr(module, "OPS", {}).items()}


@functools.cache
def kinds() -> Mapping[str, Op]:
    """Return what the files of `onnxslim.ops.families` say of the kinds of `ops.axes`."""
    found = {kind: op for module in _families() for kind, op in getattr(module, "KINDS", {}).items()}
    return {**found, "frozen": Op(relate=_relate_frozen)}


@functools.cache
def _families() -> tuple[object, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(families.__path__))
    return tuple(importlib.import_module(f"{families.__name__}.{name}") for name in names)


@functools.cache
def find_op(name: OpName) -> Op:
    """Return what is known of an op, (domain, op type); of an unknown one, nothing."""
    own = ops().get(name, Op())
    rows = signatures().get(name, ())
    kind = kinds().get(rows[0].kind, Op()) if rows else Op()
    infer = own.infer or kind.infer
    if infer is None and rows and rows[0].kind in ("", EINSUM) and not any(row.invents_axes for row in rows):
        infer = infer_row
    resize = own.resize
    if own.shape_input is not None:
        resize = functools.partial(Cut.write_shape, name="shape", index=own.shape_input)
    return dataclasses.replace(own, infer=infer, relate=own.relate or kind.relate, resize=resize)


def constancy(node: ir.Node) -> Constancy:
    """Return what is left of a constant channel of the first input, of all inputs of an elementwise op or a Concat."""
    name = op_of(node)
    own = find_op(name).constancy
    if own is not None:
        return own(node)
    if name in Trait.ELEMENTWISE.ops:
        return Constancy.EVALUATED
    if any(name in trait.ops for trait in (Trait.MOVEMENT, Trait.JOINING, Trait.KEEPS_CONSTANT)):
        return Constancy.KEPT
    return Constancy.ZERO_KEPT if name in Trait.KEEPS_ZERO.ops else Constancy.LOST


def fill(node: ir.Node) -> float | None:
    """Return the number that a node puts where no input is; NaN: computed when the model runs; None: there is none."""
    own = find_op(op_of(node)).fill
    return None if own is None else own(node)


def index_into(node: ir.Node, index: int) -> IndexInto | None:
    """Return what the input `index` of a node indexes; None where it holds no indices."""
    return find_op(op_of(node)).indices.get(index)


def carried_inputs(node: ir.Node) -> Sequence[int]:
    """Return the inputs whose elements reach a result as they are, if not all, then some: an index stays an index."""
    own = find_op(op_of(node)).carried
    if own is not None:
        return own
    return (0,) if has(node, Trait.CARRIES) else moved_inputs(node)


def moved_inputs(node: ir.Node) -> Sequence[int]:
    """Return the inputs that the elements of the results are elements of; none where the node computes new ones."""
    if has(node, Trait.JOINING):
        return range(len(node.inputs))
    return (0,) if has(node, Trait.MOVEMENT) else ()


def relations_of(site: NodeAxes) -> tuple[BoundSignature | None, Sequence[Relation]]:
    """Return the row of the table that holds for a node, None where none does, and the relations between its axes.

    What is not known of a node freezes the axes of all its operands.
    """
    bound = None
    try:
        relate = find_op(op_of(site.node)).relate
        if relate is not None:
            return None, list(relate(site))
        bound = bind(site.node)
        return bound, list(site.freeze_node(FreezeCode.NO_SIGNATURE) if bound is None else relate_row(site, bound))
    except (Unknowable, ValueError):  # or a node that is wrong
        return bound, list(site.freeze_node(FreezeCode.UNKNOWN_SHAPE))
    except Exception as error:  # what describes the op is wrong, as a new op may be, or one of another package
        return bound, list(site.freeze_node(FreezeCode.FAILED, f"{type(error).__name__}: {error}"))


def _relate_frozen(site: NodeAxes) -> Iterator[Relation]:
    """Yield that no axis can be cut, and why, as ops.axes says."""
    return site.freeze_node(FreezeCode.UNFOLLOWED, signatures()[op_of(site.node)][0].reason)


def computed_default(node: ir.Node, name: str) -> Ints | None:
    """Return what `node` takes for an attribute that it leaves out and that has no default in its schema; None where
    there is no such default, or the ranks or sizes that it hangs on are not known."""
    compute = find_op(op_of(node)).defaults.get(name)
    return None if compute is None else compute(node)


def is_usual(domain: str, op_type: str, name: str, numbers: Sequence[int]) -> bool:
    """Whether the computed default of an attribute repeats one number, and `numbers` are these.

    Such an attribute may be left out whatever the rank is.
    """
    default = find_op((domain, op_type)).defaults.get(name)
    return isinstance(default, Repeated) and set(numbers) <= {default.number}
