"""Permutes channels wherever they occur: what a coupling says must leave what is computed as it was."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.coupling import Coupling


def permutation(coupling: Coupling, generator: np.random.Generator) -> np.ndarray:
    """Return for each label the one whose channel takes its place; they change places within the same axes alone."""
    labels = coupling.labels
    lies: dict[int, list[tuple[int, int]]] = {}
    for axis, first in labels.start.items():
        free = labels.bases(first + np.arange(coupling.relations.sizes[axis] or 0))[1]
        for root, count in zip(*np.unique(free, return_counts=True), strict=True):
            lies.setdefault(int(root), []).append((axis, int(count)))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for root, places in lies.items():
        alike.setdefault(tuple(places), []).append(root)
    source = np.arange(labels.count)
    for roots in alike.values():
        source[roots] = np.roll(roots, 1) if len(roots) < 3 else generator.permutation(roots)
    return source


def permuted(array: np.ndarray, value: ir.Value, coupling: Coupling, source: np.ndarray) -> np.ndarray:
    """Return `array`, which is what `value` holds, with its channels permuted."""
    for axis in range(array.ndim):
        own = coupling.of(value, axis)
        if own is None:
            continue
        places, roots = coupling.labels.bases(own)
        if (source[roots] == roots).all():
            continue
        # A place is known by all the bases that it goes with; the bases change, and tell where it comes from.
        known: dict[int, list[int]] = {}
        for place, root in zip(places.tolist(), roots.tolist(), strict=True):
            known.setdefault(place, []).append(root)
        counters: dict[tuple[int, ...], list[int]] = {}
        for place in sorted(known):
            counters.setdefault(tuple(sorted(known[place])), []).append(place)
        order = np.arange(len(own))
        for bases, to in counters.items():
            order[to] = counters[tuple(sorted(int(source[root]) for root in bases))]
        array = np.take(array, order, axis=axis)
    return array
