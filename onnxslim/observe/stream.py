"""Runs a model piece by piece on all samples, and holds just the values that the rest of it reads.

Whoever looks at layer after layer, and changes each before the next runs, would otherwise run the model from its
inputs once for every layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.data import Batch
from onnxslim.model.nesting import nodes_within, read_values
from onnxslim.observe.probe import defaults
from onnxslim.runtime.session import OpenSession, Session


def early_order(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes of a graph, each as early as its inputs allow: a short branch before the end of a longer one."""
    depth: dict[ir.Value, int] = {}
    levels: dict[ir.Node, int] = {}
    for node in graph:
        levels[node] = 1 + max((depth.get(value, 0) for value in read_values(node)), default=0)
        depth.update(dict.fromkeys(node.outputs, levels[node]))
    return sorted(graph, key=lambda node: levels[node])


class Stream:
    """The values of a model on all samples, at a place between two of its nodes that moves on.

    Args:
        model: Weights may change ahead of the place where the stream is, and nodes may be replaced by others that make
            values of the same names.
        batches: The samples of each run; two streams may share them.
        open_session: Opens a model on the target.
        order: The nodes in the order in which they are to run; None: each as early as its inputs allow.
    """

    def __init__(
        self,
        model: ir.Model,
        batches: Sequence[Batch],
        open_session: OpenSession,
        order: Sequence[ir.Node] | None = None,
    ) -> None:
        self._model = model
        self.order = early_order(model.graph) if order is None else list(order)
        """The nodes in the order in which they run."""
        self._open = open_session
        self._place = 0
        given = defaults(model)
        self._batches: list[dict[str, Array]] = [{**given, **batch.feeds} for batch in batches]
        """The values that are held of each batch, by name."""
        self.counts = [batch.count for batch in batches]
        """How many samples there are in each batch."""
        self._last = {value.name or "": index for index, node in enumerate(self.order) for value in read_values(node)}

    def __getitem__(self, name: str) -> list[Array]:
        """Return a value that is held, batch by batch."""
        return [values[name] for values in self._batches]

    def ahead(self, name: str) -> Iterator[Array]:
        """Yield a value of the model batch by batch: as it is held, or computed of what is, without moving on.

        Args:
            name: A value that is held, or of which all that it is made of is.

        Raises:
            RunError: The model does not run on the samples.
        """
        if name in self._batches[0]:
            yield from self[name]
            return
        session, inputs = self._segment({name})
        for values in self._batches:
            yield session.run({read: values[read] for read in inputs})[name]

    def advance(self, place: int, keep: Collection[str] = ()) -> None:
        """Run the nodes before `place`, and drop what nobody reads from there on.

        Args:
            place: A place in `order`; what lies behind stays behind.
            keep: Names of values to hold as well, once they have been computed.

        Raises:
            RunError: The model does not run on the samples.
        """
        nodes = self.order[self._place : place]

        def wanted(name: str) -> bool:
            return self._last.get(name, -1) >= place or name in keep

        made = {value.name for node in nodes for value in node.outputs if value.name and wanted(value.name)}
        session, inputs = self._segment(made) if made else (None, [])
        if nodes:
            self._place = place
        for values in self._batches:
            if session is not None:
                values.update(session.run({name: values[name] for name in inputs}))
            # At once: until the last batch is done these would be held of all the others twice over.
            for name in [name for name in values if not wanted(name)]:
                del values[name]

    def _segment(self, made: Collection[str]) -> tuple[Session, list[str]]:
        """Return a session that computes `made` from what is held, and what it takes."""
        graph = self._model.graph
        known = self._batches[0]
        starts = [value for node in graph for value in node.outputs if value.name in known]
        starts += [value for value in graph.inputs if value.name in known]
        ends = [value for node in graph for value in node.outputs if value.name in made]
        inner = ir.convenience.extract(graph, starts, ends)
        read = {value for node in nodes_within(inner) for value in node.inputs if value is not None}
        for value in [value for value in inner.inputs if value not in read]:
            inner.inputs.remove(value)
        for value in inner.inputs:
            array = known[value.name or ""]
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape([None] * array.ndim)
        model = ir.Model(inner, ir_version=self._model.ir_version, functions=list(self._model.functions.values()))
        return self._open(model), [value.name or "" for value in inner.inputs]
