"""Splits tables that are read row by row: a narrower table, then a product of matrices.

Rows count as often as the samples read them, and a little in any case: what the samples never read may be read later.
With p the share of each row and T the table, the split keeps the directions in which T' diag(p) T is largest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.linear_layer import label
from onnxslim.arrays import Floats
from onnxslim.data import Batch
from onnxslim.fit.refit import SAMPLES
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, drop_unused, take_over
from onnxslim.observe.batches import batch_size
from onnxslim.observe.probe import stream_values
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.interface import Context, LayerChange, Note, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import EVERYTHING, Selection
from onnxslim.runtime.session import Session

from .allocation import SplitSettings, choose, describe, why_whole
from .candidates import STEPS, SplitCandidate, multiples, tail
from .codes import LowrankCode
from .factors import Factorization, Split
from .layer import SMALLEST

UNREAD = 0.25
"""The share of the weight that all rows share alike, whatever was read."""


@dataclasses.dataclass(frozen=True)
class EmbeddingTable:
    """A table, and the nodes that read it."""

    name: str
    nodes: tuple[ir.Node, ...]
    weight: ir.Value
    inputs: int
    """Rows."""
    outputs: int
    """Floats in a row."""

    @property
    def parameters(self) -> int:
        """Elements of the table."""
        return self.inputs * self.outputs


def split_tables(
    model: ir.Model, selection: Selection, settings: SplitSettings, context: Context
) -> tuple[list[Note], list[Note], tuple[LayerChange, ...]]:
    """Split the tables of the main graph, in place; return what was done, what was left alone, and what became of
    those that were split.

    A row is read without a product, so that a split is slower on every target: it is made for size only.

    Raises:
        RunError: The model does not run on the calibration samples.
    """
    tables, left = find_tables(model, selection, settings.smallest)
    if not settings.size:
        reason = Reason(LowrankCode.NOT_FASTER, ("rows are read without a product; pays=size splits it",))
        return [], [*left, *(left_alone(table.name, reason) for table in tables)], ()
    learns = settings.whiten and not context.samples.synthetic
    counts: dict[str, Floats] = {}
    if learns and tables:
        samples = context.draw(SAMPLES, "lowrank: rows of tables")
        batches = samples.batches(batch_size(model, samples))
        counts = count_rows(model, tables, batches, context.open_session)
    bases = [basis(table, counts.get(table.name)) for table in tables]
    spectra = zip(tables, bases, strict=True)
    options = [table_candidates(table, energies, settings.align) for table, (energies, _) in spectra]
    editor = Editor(model)
    done: list[Note] = []
    changes: list[LayerChange] = []
    first = Batch(context.samples.first())
    reads = count_rows(model, tables, [first], context.open_session) if tables else {}
    for table, (_, vectors), candidates, candidate in zip(
        tables, bases, options, choose([table.parameters for table in tables], options, settings.target), strict=True
    ):
        if candidate is None:
            left.append(left_alone(table.name, why_whole(candidates, settings.target, settings.align)))
            continue
        write_table(editor, table, split_table(table, vectors, candidate.ranks[0]))
        kept = f"{1 - candidate.error:.2%} of the energy of its rows retained"
        done.append(Note(table.name, describe(table.parameters, candidate), kept))
        (rank,), full = candidate.ranks, min(table.inputs, table.outputs)
        work = int(reads[table.name].sum()) * rank * table.outputs
        changes.append(LayerChange(table.name, table.nodes[0].op_type, "rank", full, rank, 0, work))
    return done, left, tuple(changes)


def find_tables(
    model: ir.Model, selection: Selection = EVERYTHING, smallest: int = SMALLEST
) -> tuple[list[EmbeddingTable], list[Note]]:
    """Return the tables of the main graph that may be split, and notes on the others."""
    found: list[EmbeddingTable] = []
    left: list[Note] = []
    for value in model.graph.initializers.values():
        tensor, uses = value.const_value, list(value.uses())
        readers = [use.node for use in uses if has(use.node, Trait.TAKES_SLICES) and use.idx == 0]
        if tensor is None or not readers or not tensor.dtype.is_floating_point() or len(tensor.shape) != 2:
            continue
        reason = selection.against(*(use.node for use in uses))
        rows, columns = tensor.shape.numpy()
        if rows * columns < smallest:
            reason = reason or Reason(LowrankCode.TOO_SMALL, (rows, columns, smallest))
        elif len(readers) < len(uses) or value.is_graph_input() or value.is_graph_output():
            reason = reason or Reason(LowrankCode.TABLE_OF_OTHER_OP, values=(value.name or "",))
        elif any(attribute(node, "axis") not in (0, -2) or node.graph is not model.graph for node in readers):
            reason = reason or Reason(LowrankCode.NOT_BY_ROWS)
        if reason:
            left.append(left_alone(label(readers[0]), reason))
        else:
            found.append(EmbeddingTable(label(readers[0]), tuple(readers), value, rows, columns))
    return found, left


def count_rows(
    model: ir.Model,
    tables: Sequence[EmbeddingTable],
    batches: Iterable[Batch],
    open_session: Callable[[ir.Model], Session],
) -> dict[str, Floats]:
    """Return for each table, by name, how often the samples of `batches` read each row.

    Raises:
        RunError: The model does not run on the samples.
    """
    counts = {table.name: np.zeros(table.inputs) for table in tables}
    read = [(table, value) for table in tables for node in table.nodes if (value := node.inputs[1]) is not None]
    fixed = {value.name or "": array for _, value in read if (array := constant(value)) is not None}
    computed = {value.name or "" for _, value in read} - fixed.keys()
    for _, found in stream_values(model, computed, batches, open_session):
        values = {**found, **fixed}
        for table, value in read:
            places = np.asarray(values[value.name or ""])
            counts[table.name] += np.bincount(places.ravel() % table.inputs, minlength=table.inputs)
    return counts


def basis(table: EmbeddingTable, counts: Floats | None) -> tuple[Floats, Floats]:
    """Return (energies, directions as columns) of the rows of a table, the largest first.

    `counts` says how often each row is read; None: all count alike.
    """
    rows = _rows(table)
    share = np.full(table.inputs, 1 / table.inputs)
    if counts is not None and counts.sum():
        share = UNREAD * share + (1 - UNREAD) * counts / counts.sum()
    values, vectors = np.linalg.eigh(rows.T @ (share[:, None] * rows))
    return np.maximum(values[::-1], 0), vectors[:, ::-1]


def _rows(table: EmbeddingTable) -> Floats:
    array = constant(table.weight)
    assert array is not None
    return array.astype(np.float64)


def table_candidates(table: EmbeddingTable, energies: Floats, align: int) -> list[SplitCandidate]:
    """Return the splits of a table that have fewer parameters."""
    lost = tail(energies)
    result = []
    for rank in multiples(min(table.inputs, table.outputs), align, STEPS * 4):
        parameters = rank * (table.inputs + table.outputs)
        if parameters < table.parameters:
            result.append(
                SplitCandidate(
                    Factorization.EMBEDDING, (rank,), parameters, float("inf"), float(lost[rank]), rank / table.outputs
                )
            )
    return result


def split_table(table: EmbeddingTable, vectors: Floats, rank: int) -> Split:
    """Return the split of a table that keeps the first `rank` directions."""
    kept = vectors[:, :rank]
    narrow = _rows(table) @ kept
    return Split(Factorization.EMBEDDING, (rank,), (narrow, kept.T.copy()), narrow @ kept.T)


def write_table(editor: Editor, table: EmbeddingTable, made: Split) -> None:
    """Put the factors in the place of a table, in place: all nodes that read it read the narrower one."""
    array = constant(table.weight)
    assert array is not None
    narrow, wide = (
        editor.initializer(f"{table.weight.name}_factor_{number}", factor.astype(array.dtype))
        for number, factor in enumerate(made.factors, start=1)
    )
    for node in table.nodes:
        output = node.outputs[0]
        rows = ir.Value(name=editor.name(f"{output.name}_factor_1"), type=output.type)
        read = ir.Node("", node.op_type, [narrow, node.inputs[1]], list(node.attributes.values()), outputs=[rows])
        product = ir.Node("", "MatMul", [rows, wide])
        editor.graph.insert_before(node, [read, product])
        take_over(product.outputs[0], output)
        editor.graph.remove(node, safe=True)
    drop_unused(editor.graph, [table.weight])
