"""The options `include=` and `exclude=`, alike in every pass: nodes and weights by the names in the user's file."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable
from typing import Annotated

import onnx_ir as ir

from onnxslim.analysis.linear_layer import label
from onnxslim.analysis.original_names import OriginalNames
from onnxslim.model.nesting import every_graph

from .interface import Note, NoteCode, remark
from .reasons import Reason

Include = Annotated[
    tuple[str, ...],
    "only nodes and weights of these names, as the file calls them, or of these op types; * and ? match any letters",
]
Exclude = Annotated[tuple[str, ...], "leave nodes and weights of these names, or of these op types, alone"]


class Selection:
    """The nodes and weights that a pass is asked to work on.

    A pattern matches the names of nodes and weights in the file and in the model as it is now, and the op types of
    nodes now. What simplification has fused goes by the names of all its parts.

    Args:
        include: Patterns; where there are any, nothing else is asked for.
        exclude: Patterns of what is left alone.
        model: The model that the pass is given; may be missing where there are no patterns.
        original: The model as it was opened.
    """

    def __init__(
        self,
        include: Collection[str] = (),
        exclude: Collection[str] = (),
        model: ir.Model | None = None,
        original: ir.Model | None = None,
    ) -> None:
        self._patterns = {"include": include, "exclude": exclude}
        self._origins: OriginalNames | None = None
        self._known: set[str] = set()
        if model is not None and original is not None and (include or exclude):
            self._origins = OriginalNames(model, original)
            self._known = _all_names(model, original)

    def against(self, *things: ir.Node | ir.Value | None) -> Reason | None:
        """Return why nodes, or weights, are not asked for; None where they are.

        Args:
            things: What is worked on together. A node goes by the names of all its weights; a weight by its own, and
                those of the nodes that read it.
        """
        if self._origins is None:
            return None
        names = set().union(*(self._names(thing) for thing in things if thing is not None))
        if self._patterns["include"] and not matches(names, self._patterns["include"]):
            return Reason(NoteCode.NOT_INCLUDED)
        return Reason(NoteCode.EXCLUDED) if matches(names, self._patterns["exclude"]) else None

    def unmatched(self) -> list[Note]:
        """Return a note on each pattern that matches nothing in the file."""
        code = NoteCode.UNMATCHED
        return [
            remark(option, f"{pattern!r} matches nothing", code.value, code.word)
            for option, patterns in self._patterns.items()
            for pattern in patterns
            if not matches(self._known, (pattern,))
        ]

    def _names(self, thing: ir.Node | ir.Value) -> set[str]:
        assert self._origins is not None
        if isinstance(thing, ir.Node):
            origin = self._origins.of_node(thing)
            stored = {value.name or "" for value in thing.inputs if value is not None and value.is_initializer()}
            return {label(thing), thing.op_type, *origin.nodes, *origin.vectors, *origin.matrices, *stored}
        rank = 0 if thing.const_value is None else thing.const_value.shape.rank()
        names = {thing.name or ""}
        for node in {use.node for use in thing.uses()}:
            names |= {label(node), node.op_type, *self._origins.of_node(node).of_weight(rank)}
        return names


EVERYTHING = Selection()
"""No patterns: all that a pass can work on."""


def matches(names: Iterable[str], patterns: Collection[str]) -> bool:
    """Return whether one of `names` matches one of `patterns`; capitals count."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _all_names(*models: ir.Model) -> set[str]:
    names: set[str] = set()
    for graph in (graph for model in models for graph in every_graph(model)):
        names.update(graph.initializers)
        for node in graph:
            names.update((label(node), node.op_type))
    return names - {""}
