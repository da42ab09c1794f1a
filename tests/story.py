"""Tests as stories: a model as text, the passes that run, and what is left of it as text; one way to make a context."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from sample_models import from_text

from onnxslim.data import Samples, open_samples
from onnxslim.model import canonicalize
from onnxslim.pipeline.interface import Change, Context, Kind, Pass
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target, detect_target

AVX2 = Target("cpu", "a processor", "avx2", 1)
VNNI = Target("cpu", "a processor", "avx512_vnni", 1)
HERE = detect_target("cpu", 1)
"""For tests that compare what int8 gives here: products saturate on processors without VNNI."""


def make_context(
    model: ir.Model,
    data: Samples | Mapping[str, np.ndarray] | None = None,
    *,
    target: Target | None = None,
    seed: int = 0,
    **fields: Any,
) -> Context:
    """Return what a pass is given in a run on `model`.

    Args:
        model: The original; a clone of it is kept.
        data: Calibration samples, or arrays with samples along their first axes; None: none.
        target: Where the result will run; sessions are opened there. None: one thread of this machine.
        seed: Of the generator.
        fields: Further fields of `Context`.
    """
    if target is None:
        target = detect_target("cpu", 1)
    else:
        fields.setdefault("open_session", lambda opened: Session.of(opened, target))
    if data is None:
        data = Samples(None, "none")  # type: ignore[arg-type]  # of a test whose pass reads no sample
    elif not isinstance(data, Samples):
        data = open_samples(dict(data), Session.of(model, target).inputs)
    return Context(model.clone(), data, target, np.random.default_rng(seed), **fields)


def check(
    before: str, after: str, passes: Pass | Iterable[Pass], *, opset: int = 17, feeds: Mapping[str, Any] | None = None,
    **weights: np.ndarray,
) -> list[Change]:  # fmt: skip
    """Run passes on a model and compare what is left of it with `after`, line by line; a second run changes nothing.

    Args:
        before: The graph from its inputs on, in the syntax of onnx.parser: ``(float[N] x) => (float[N] y) { ... }``.
        after: The nodes that are left, as `nodes_of` writes them.
        passes: What runs, in this order.
        opset: Of the model.
        feeds: Inputs. Where they are given and all passes are exact, the outputs must be as they were.
        weights: Initializers of the model, by name; they need not be declared in `before`.
    """
    model = from_text(f'<ir_version: 8, opset_import: ["" : {opset}]> g {declared(before, weights)}', **weights)
    canonicalize(model)
    original = model.clone()
    context = make_context(model)
    steps = [passes] if isinstance(passes, Pass) else list(passes)
    changes = [step.run(model, context) for step in steps]
    assert not [note for change in changes for note in change.notes if note.action == "left alone"]
    assert "\n".join(nodes_of(model.graph)) == textwrap.dedent(after).strip("\n")
    for step in steps:
        again = step.run(model, context)
        assert not again.modified, again.notes
    if feeds is not None and all(step.kind is Kind.EXACT for step in steps):
        expected, got = (Session.of(either, optimize=False).run(dict(feeds)) for either in (original, model))
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    return changes


def declared(text: str, weights: Mapping[str, np.ndarray]) -> str:
    """Return `text` with those weights among its inputs that it does not name there: the parser wants to know them."""
    inputs = text[: text.index("=>")]
    missing = [name for name in weights if f" {name}" not in inputs.replace(",", " ,").replace(")", " ")]
    return text.replace(")", "".join(f", float[1] {name}" for name in missing) + ")", 1)


def nodes_of(graph: ir.Graph, indent: str = "") -> list[str]:
    """Return the nodes of a graph, a line each; constants of up to four elements are written out."""
    lines = []
    for node in graph:
        graphs = {name: a.as_graph() for name, a in node.attributes.items() if a.type is ir.AttributeType.GRAPH}
        settings = [f"{name} = {a.value}" for name, a in node.attributes.items() if name not in graphs]
        bracket = f" <{', '.join(settings)}>" if settings else ""
        outputs = ", ".join(output.name or "_" for output in node.outputs)
        operands = ", ".join(operand(value) for value in node.inputs)
        lines.append(f"{indent}{outputs} = {node.op_type}{bracket} ({operands})")
        for name, body in graphs.items():
            lines += [f"{indent}  {name}:", *nodes_of(body, indent + "    ")]
    return lines


def operand(value: ir.Value | None) -> str:
    """Return how `nodes_of` writes an input of a node."""
    if value is None:
        return "-"
    if value.const_value is not None and value.is_initializer():
        array = value.const_value.numpy()
        return str(array.tolist()) if array.size <= 4 else f"{value.name}{list(array.shape)}"
    return str(value.name)
