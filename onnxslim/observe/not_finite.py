"""Finds where values that are not finite begin: in an input, or inside the model, and on which sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import Samples
from onnxslim.errors import RunError
from onnxslim.observe.finite import FLOATS
from onnxslim.observe.statistics import Observer, Query, Statistic
from onnxslim.runtime.session import OpenSession


@dataclasses.dataclass(frozen=True)
class NotFinite:
    """Something that is NaN or infinite on a sample."""

    what: str
    """The input, or the value and the node that makes it."""
    kind: str
    """``NaN`` or ``infinite``."""
    sample: int | None
    """Which sample of the source it is, counted from 0; None where the source does not number them."""
    samples: int
    """On how many samples it is so; of a value inside the model, at least."""

    def __str__(self) -> str:
        more = f" and {self.samples - 1} more" if self.samples > 1 else ""
        where = f"sample {self.sample} (counted from 0){more}" if self.sample is not None else f"{self.samples} samples"
        return f"{self.what} is {self.kind} on {where}"


def input_not_finite(samples: Samples) -> NotFinite | None:
    """Return the first input that is not finite on some sample, or None. All samples are read.

    Raises:
        DataError: They cannot be read.
    """
    found: dict[str, NotFinite] = {}
    done = 0
    for batch in samples.batches():
        for name, array in batch.feeds.items():
            kind = _kind(array)
            if kind is None:
                continue
            finite = _finite_rows(array, batch.count)
            row = samples.number(done + int(np.argmin(finite)))
            first = found.get(name, NotFinite(f"the input {name}", kind, row, 0))
            found[name] = dataclasses.replace(first, samples=first.samples + int((~finite).sum()))
        done += batch.count
    return next(iter(found.values()), None)


def first_not_finite(
    model: ir.Model, samples: Samples, open_session: OpenSession, names: Collection[str] | None = None
) -> NotFinite | None:
    """Return where that begins which is not finite: an input, else a value of the main graph; None where all is finite.

    Infinities may be meant (masks), so that one which makes no NaN counts only where there is no NaN.

    Args:
        model: In canonical form; it is not changed.
        samples: All are read; the model runs up to the first on which something is not finite.
        open_session: Opens a model on the target.
        names: Values that were seen not to be finite: only these and what they are made of are looked at. None: all.

    Raises:
        DataError: The samples cannot be read.
    """
    found = input_not_finite(samples)
    if found is not None:
        return found
    typed = model.clone()
    infer_shapes(typed)
    values = {Query(value.name or "", Statistic.MEAN): value for value in _inner_values(typed, names)}
    if not values:
        return None
    try:
        observer = Observer(typed, values, open_session)
        done = 0
        for batch in samples.batches():
            means = observer(batch)
            kinds = {value: kind for query, value in values.items() if (kind := _kind(means[query]))}
            if kinds:
                value = _beginning(kinds)
                return NotFinite(_called(value), kinds[value], samples.number(done), 1)
            done += batch.count
    except RunError:
        return None
    return None


def _kind(array: npt.NDArray[np.generic]) -> str | None:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    return "NaN" if np.isnan(array).any() else "infinite"


def _finite_rows(array: npt.NDArray[np.generic], count: int) -> npt.NDArray[np.bool_]:
    """Return for each sample of a batch whether its part of `array` is finite, shape [count]; [1] if it is shared."""
    finite = np.isfinite(array).reshape(count if array.ndim and len(array) == count else 1, -1)
    return np.asarray(finite.all(axis=1))


def _beginning(kinds: Mapping[ir.Value, str]) -> ir.Value:
    """Return of values that are not finite, in the order of the graph, the one that the first NaN comes from."""
    value = next((value for value, kind in kinds.items() if kind == "NaN"), next(iter(kinds)))
    while True:
        maker = value.producer()
        before = next((read for read in maker.inputs if read in kinds), None) if maker is not None else None
        if before is None:
            return value
        value = before


def _called(value: ir.Value) -> str:
    maker = value.producer()
    assert maker is not None, "a node makes it"
    return f"the value {value.name}, which {maker.op_type}{f' {maker.name!r}' if maker.name else ''} makes,"


def _inner_values(model: ir.Model, names: Collection[str] | None) -> list[ir.Value]:
    """Return the values of floats that nodes of the main graph make, in its order.

    Args:
        model: With the types of its values known.
        names: Only these and the values that they are made of; None: all.
    """
    nodes = list(model.graph)
    if names is not None:
        reached: set[ir.Node] = set()
        waiting = [node for node in nodes if any(value.name in names for value in node.outputs)]
        while waiting:
            node = waiting.pop()
            if node not in reached:
                reached.add(node)
                waiting += [maker for value in node.inputs if value is not None and (maker := value.producer())]
        nodes = [node for node in nodes if node in reached]
    return [value for node in nodes for value in node.outputs if value.dtype in FLOATS and value.name]
