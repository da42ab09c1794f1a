"""Symbolic shapes of every value, in place, by way of one library."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections.abc import Callable, Iterator

import onnx_ir as ir
import onnx_shape_inference

SYMBOL = re.compile(r"[A-Za-z_]\w*")


def infer_shapes(model: ir.Model) -> tuple[str, ...]:
    """Fill in the types and shapes of all values that can be known; symbolic dimensions keep their names.

    What an op without an inference function makes stays unknown. Never raises: shapes are knowledge, and a model about
    which less is known is no wrong model.

    Returns:
        What went wrong, one line each; empty as a rule.
    """
    with _silent("onnx_shape_inference"), _plain_symbols(model):
        try:
            onnx_shape_inference.infer_symbolic_shapes(model, warn_on_missing=False)
        except Exception as error:  # any of some two hundred inference functions, each of which may raise what it likes
            return (f"{type(error).__name__}: {error}",)
        finally:
            for value in _values(model):  # the library's notes to itself would be written into the file
                value.metadata_props.pop(onnx_shape_inference.SYM_DATA_KEY, None)
    return ()


def forget_shapes(model: ir.Model) -> None:
    """Drop what is known of the values inside the graphs, so that `infer_shapes` starts from inputs and weights."""
    for graph in model.graphs():
        for node in graph:
            for output in node.outputs:
                if not output.is_graph_output():
                    output.shape = None


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _plain_symbols(model: ir.Model) -> Iterator[None]:
    """Give dimensions whose names are no words (``?``, ``a.b``, ``-1``) other names for a while.

    The library takes a name for a formula. A name without any letter says nothing, so each of its places gets a name of
    its own: exporters write ``?`` for every dimension that they do not know, and two of these are seldom equal.
    """
    fresh = (f"unnamed_{number}" for number in itertools.count())
    names: dict[str, str] = {}
    back: dict[str, str] = {}

    def plain(name: str) -> str:
        if SYMBOL.fullmatch(name):
            return name
        alias = next(fresh) if not re.search(r"[A-Za-z]", name) else names.setdefault(name, f"named_{len(names)}")
        back[alias] = name
        return alias

    def original(name: str) -> str:
        return SYMBOL.sub(lambda word: back.get(word[0], word[0]), name)

    _rename(model, plain)
    try:
        yield
    finally:
        if back:
            _rename(model, original)


def _rename(model: ir.Model, rename: Callable[[str], str]) -> None:
    """Replace the name of every symbolic dimension by what `rename` makes of it."""
    for value in _values(model):
        if value.shape is None or not any(isinstance(size, ir.SymbolicDim) and size.value for size in value.shape):
            continue
        sizes = [
            ir.SymbolicDim(rename(size.value)) if isinstance(size, ir.SymbolicDim) and size.value else size
            for size in value.shape
        ]
        if sizes != list(value.shape):
            value.shape = ir.Shape(sizes)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs
